//! Deep documents on a small stack: what recurses must have ended long before the stack does.

use yrs::types::ToJson;

use super::*;
use crate::document::admission::NESTING_MAX;
use crate::document::lib0::{ANY_NESTING_MAX, write_var_string, write_varuint};

/// Types nested in each other, each in its own update. `first` is the one in the root.
fn nested(first: &[u8], inner: &[u8], depth: u64) -> Vec<Vec<u8>> {
    (0..depth)
        .map(|clock| {
            let mut update = vec![1, 1, 1];
            write_varuint(&mut update, clock);
            match clock {
                0 => update.extend(first),
                _ => {
                    update.extend([7 | (first[0] & 0x20), 0, 1]);
                    write_varuint(&mut update, clock - 1);
                    update.extend(inner);
                }
            }
            update.push(0);
            update
        })
        .collect()
}

/// Reads the document in every way that recurses, deletes its outermost type, and reads it again.
fn survives(updates: &[Vec<u8>]) {
    let mut server = Server::new();
    for update in updates {
        server.offer(update).expect("it is admitted");
    }
    let depth = updates.len() as u64;
    let all_roots = |server: &Server| {
        let mut txn = server.doc.transact_mut();
        let fragment = txn.get_or_insert_xml_fragment("x");
        let json = txn.get_or_insert_map("m").to_json(&txn);
        let list = txn.get_or_insert_array("l").to_json(&txn);
        (json, list, fragment.get_string(&txn).len())
    };
    let before = format!("{:?}", all_roots(&server));
    let copy = server.reload();
    assert_eq!(format!("{:?}", all_roots(&copy)), before);

    assert_eq!(server.offer(&[0, 1, 1, 1, 0, 1]), Ok(true));
    assert!((0..depth).all(|clock| server.known.deleted().contains(1, clock as u32)));
    server.check_equal(&server.reload());
    assert_eq!(server.offer(&[0, 1, 1, 1, 0, 1]), Ok(false));
}

const IN_LIST: [u8; 5] = [7, 1, 1, b'l', 0];
const IN_MAP: [u8; 7] = [0x27, 1, 1, b'm', 1, b'k', 1];
const IN_XML: [u8; 7] = [7, 1, 1, b'x', 3, 1, b'p'];

#[test]
fn the_deepest_documents_fit_the_stack() {
    on_a_small_stack(|| {
        let depth = u64::from(NESTING_MAX);
        survives(&nested(&IN_LIST, &[0], depth));
        survives(&nested(&IN_MAP, &[1, b'k', 1], depth));
        survives(&nested(&IN_XML, &[3, 1, b'p'], depth));
    });
}

#[test]
fn a_million_levels_are_refused_at_once() {
    on_a_small_stack(|| {
        for depth in [u64::from(NESTING_MAX) + 1, 5000] {
            let updates = nested(&IN_LIST, &[0], depth);
            let mut server = Server::new();
            let refused = updates.iter().filter(|update| server.offer(update).is_err()).count() as u64;
            assert_eq!(refused, depth - u64::from(NESTING_MAX));
            server.check_equal(&server.reload());
        }
        let mut at_once = vec![1];
        write_varuint(&mut at_once, 1_000_000);
        at_once.extend([1, 0]);
        at_once.extend(IN_LIST);
        for clock in 1..1_000_000 {
            at_once.extend([7, 0, 1]);
            write_varuint(&mut at_once, clock - 1);
            at_once.push(0);
        }
        at_once.push(0);
        assert!(Server::new().offer(&at_once).is_err());
    });
}

#[test]
fn the_deepest_values_fit_the_stack() {
    on_a_small_stack(|| {
        let any = [vec![8, 1, 1, b't', 1], [117, 1].repeat(ANY_NESTING_MAX), vec![126]].concat();
        let mut json = vec![5, 1, 1, b't'];
        write_var_string(&mut json, &["[".repeat(127), "]".repeat(127)].concat());
        for block in [any, json] {
            let mut server = Server::new();
            let update = [&[1, 1, 1, 0][..], &block, &[0]].concat();
            assert_eq!(server.offer(&update), Ok(true));
            let list = server.doc.get_or_insert_array("t");
            let mut text = String::new();
            list.to_json(&server.doc.transact()).to_json(&mut text);
            assert!(text.contains("[[[[["));
            server.check_equal(&server.reload());
        }
    });
}

#[test]
fn counts_and_lengths_that_lie_allocate_nothing() {
    // Each of these says that gigabytes follow.
    for bytes in [
        &[0xff, 0xff, 0xff, 0xff, 0x07][..],
        &[1, 0xff, 0xff, 0xff, 0xff, 0x07, 1, 0],
        &[1, 1, 1, 0, 4, 1, 1, b't', 0xff, 0xff, 0xff, 0xff, 0x07, b'a', 0],
        &[1, 1, 1, 0, 8, 1, 1, b't', 0xff, 0xff, 0xff, 0xff, 0x07, 126, 0],
        &[1, 1, 1, 0, 8, 1, 1, b't', 1, 117, 0xff, 0xff, 0xff, 0x7f, 126, 0],
        &[1, 1, 1, 0, 8, 1, 1, b't', 1, 118, 0xff, 0xff, 0xff, 0x7f, 126, 0],
        &[0, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 1],
    ] {
        assert!(read_update(bytes).is_err(), "{bytes:?}");
        assert!(read_state_vector(bytes).is_err(), "{bytes:?}");
    }
}
