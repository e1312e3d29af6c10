//! Single updates against single rules. Genuine and hostile updates by the thousand are in `trials`.

use super::*;
use crate::document::format::read_update;
use crate::document::lib0::write_varuint;

/// Blocks of one client from `clock` on.
fn client(client: u8, clock: u8, blocks: &[&[u8]]) -> Vec<u8> {
    [&[blocks.len() as u8, client, clock], blocks.concat().as_slice()].concat()
}

fn update(clients: &[Vec<u8>]) -> Vec<u8> {
    [vec![clients.len() as u8], clients.concat(), vec![0]].concat()
}

/// `units` characters in the root text `t`, without neighbours.
fn text(units: u8) -> Vec<u8> {
    [&[4, 1, 1, b't', units][..], &vec![b'a'; units.into()]].concat()
}

fn after(client: u8, clock: u8) -> Vec<u8> {
    vec![0x84, client, clock, 1, b'b']
}

fn before(client: u8, clock: u8) -> Vec<u8> {
    vec![0x44, client, clock, 1, b'c']
}

fn between(left: (u8, u8), right: (u8, u8)) -> Vec<u8> {
    vec![0xc4, left.0, left.1, right.0, right.1, 1, b'd']
}

/// A text in the type with this id.
fn inside(client: u8, clock: u8) -> Vec<u8> {
    vec![4, 0, client, clock, 1, b'e']
}

/// A list in the root `l`.
const LIST: &[u8] = &[7, 1, 1, b'l', 0];
/// A list in the type with id (1, 0).
const LIST_IN_LIST: &[u8] = &[7, 0, 1, 0, 0];
const COLLECTED: &[u8] = &[0, 1];

/// What is decided about the last update, where all before it were admitted.
fn decide(updates: &[Vec<u8>]) -> Result<bool, Refusal> {
    let mut known = Known::default();
    let mut decision = Ok(false);
    for bytes in updates {
        decision.expect("all but the last are admitted");
        let outline = read_update(bytes).expect("it has the right form");
        decision = known.admit(&outline).map(|admission| {
            let changes = !admission.changes_nothing();
            known.record(admission, &outline.deletions, &DeleteSet::default());
            changes
        });
    }
    decision
}

fn reason(updates: &[Vec<u8>]) -> &'static str {
    match decide(updates) {
        Err(Refusal::Invalid { reason }) => reason,
        other => panic!("{updates:?} ended with {other:?}"),
    }
}

#[test]
fn what_comes_in_order_is_admitted_and_a_repeat_changes_nothing() {
    let first = update(&[client(1, 0, &[&text(3)])]);
    let second = update(&[client(2, 0, &[&after(1, 2), &after(2, 0)])]);
    assert_eq!(decide(&[first.clone(), second.clone()]), Ok(true));
    assert_eq!(decide(&[first.clone(), second.clone(), second]), Ok(false));
    assert_eq!(decide(&[first.clone(), first.clone()]), Ok(false));
    let longer = update(&[client(1, 0, &[&text(4)])]);
    assert_eq!(decide(&[first, longer.clone()]), Ok(true));
    assert_eq!(decide(&[longer.clone(), update(&[client(1, 2, &[&after(1, 1)])])]), Ok(false));
    assert_eq!(decide(&[vec![0, 0]]), Ok(false));
}

#[test]
fn a_deletion_changes_something_once() {
    let first = update(&[client(1, 0, &[&text(3)])]);
    let delete = |start, length| vec![0, 1, 1, 1, start, length];
    assert_eq!(decide(&[first.clone(), delete(0, 2)]), Ok(true));
    assert_eq!(decide(&[first.clone(), delete(0, 2), delete(1, 1)]), Ok(false));
    assert_eq!(decide(&[first.clone(), delete(0, 2), delete(1, 2)]), Ok(true));
    assert_eq!(decide(&[first.clone(), delete(0, 4)]), Err(Refusal::Gap));
    assert_eq!(decide(&[first, vec![0, 1, 2, 1, 0, 1]]), Err(Refusal::Gap));
    let own = [&[1][..], &client(1, 0, &[&text(3)]), &[1, 1, 1, 0, 3]].concat();
    assert_eq!(decide(&[own]), Ok(true));
}

#[test]
fn what_the_transaction_deleted_is_known_as_deleted() {
    let mut known = Known::default();
    let bytes = update(&[client(1, 0, &[&text(3)])]);
    let outline = read_update(&bytes).expect("it has the right form");
    let mut derived = DeleteSet::default();
    derived.insert(1, 1..2);
    let admission = known.admit(&outline).expect("it is admitted");
    known.record(admission, &outline.deletions, &derived);
    let outline = read_update(&[0, 1, 1, 1, 1, 1]).expect("it has the right form");
    assert!(known.admit(&outline).expect("it is admitted").changes_nothing());
}

#[test]
fn what_builds_on_missing_units_is_a_gap() {
    let first = update(&[client(1, 0, &[&text(3)])]);
    let gaps = [
        update(&[client(1, 4, &[&text(1)])]),
        update(&[client(2, 1, &[&text(1)])]),
        update(&[client(2, 0, &[&after(1, 3)])]),
        update(&[client(2, 0, &[&after(3, 0)])]),
        update(&[client(2, 0, &[&before(1, 3)])]),
        update(&[client(2, 0, &[&between((1, 1), (3, 0))])]),
        update(&[client(2, 0, &[&inside(3, 0)])]),
        update(&[client(2, 0, &[&text(1), &[10, 2], &text(1)])]),
        update(&[client(1, 2, &[&after(1, 1), &[10, 2], &text(1)])]),
        // In the update itself, but not far enough.
        update(&[client(2, 0, &[&after(3, 1)]), client(3, 0, &[&text(1)])]),
    ];
    for gap in gaps {
        assert_eq!(decide(&[first.clone(), gap.clone()]), Err(Refusal::Gap), "{gap:?}");
    }
}

#[test]
fn a_skip_over_what_is_known_is_no_gap() {
    let first = update(&[client(1, 0, &[&text(5)])]);
    let skips = update(&[client(1, 0, &[&text(1), &[10, 3], &after(1, 3), &after(1, 4)])]);
    assert_eq!(decide(&[first, skips]), Ok(true));
}

#[test]
fn blocks_may_refer_to_each_other_in_any_order_but_not_in_a_circle() {
    // 1:0, 2:0 after it, 1:1 after that, and so on.
    let ping = client(1, 0, &[&text(1), &after(2, 0), &after(2, 1)]);
    let pong = client(2, 0, &[&after(1, 0), &after(1, 1), &after(1, 2)]);
    for order in [[ping.clone(), pong.clone()], [pong, ping]] {
        assert_eq!(decide(&[update(&order)]), Ok(true));
    }
    let circle = [client(1, 0, &[&after(2, 0)]), client(2, 0, &[&before(1, 0)])];
    assert_eq!(reason(&[update(&circle)]), "blocks refer to each other in a circle");
    let longer = [
        client(1, 0, &[&text(1), &after(2, 1), &text(1)]),
        client(2, 0, &[&text(1), &between((3, 0), (1, 0))]),
        client(3, 0, &[&after(1, 2)]),
    ];
    assert_eq!(reason(&[update(&longer)]), "blocks refer to each other in a circle");
}

#[test]
fn neighbours_are_in_one_place() {
    let texts = update(&[client(1, 0, &[&text(2), LIST, &inside(1, 2)])]);
    let ok = update(&[client(2, 0, &[&between((1, 0), (1, 1)), &between((1, 2), (1, 2))])]);
    assert_eq!(decide(&[texts.clone(), ok]), Ok(true));
    for (left, right) in [((1, 0), (1, 2)), ((1, 3), (1, 2)), ((1, 3), (1, 1))] {
        let bad = update(&[client(2, 0, &[&between(left, right)])]);
        assert_eq!(reason(&[texts.clone(), bad]), "a block lies between neighbours in different places");
    }
    // A map's entry and its sequence are different places, too.
    let keyed: &[u8] = &[0x28, 1, 1, b't', 1, b'k', 1, 120];
    let mixed = update(&[client(1, 0, &[keyed, &text(1)]), client(2, 0, &[&between((1, 0), (1, 1))])]);
    assert_eq!(reason(&[mixed]), "a block lies between neighbours in different places");
}

#[test]
fn a_map_entry_follows_what_it_replaces() {
    let keyed: &[u8] = &[0x28, 1, 1, b't', 1, b'k', 1, 120];
    let base = update(&[client(1, 0, &[keyed])]);
    assert_eq!(decide(&[base.clone(), update(&[client(2, 0, &[&after(1, 0)])])]), Ok(true));
    for bad in [before(1, 0), between((1, 0), (1, 0))] {
        let bad = update(&[client(2, 0, &[&bad])]);
        assert_eq!(reason(&[base.clone(), bad]), "a map entry has a neighbour to its right");
    }
}

#[test]
fn only_types_have_something_inside() {
    let base = update(&[client(1, 0, &[LIST, &text(1), &[1, 1, 1, b'l', 2], COLLECTED])]);
    assert_eq!(decide(&[base.clone(), update(&[client(2, 0, &[&inside(1, 0)])])]), Ok(true));
    // What came without its content can have been a type; what is put into it is lost as it was.
    for clock in [2, 3, 4] {
        let lost = update(&[client(2, 0, &[&inside(1, clock), &after(2, 0), &inside(2, 1)])]);
        assert_eq!(decide(&[base.clone(), lost]), Ok(true), "{clock}");
    }
    let into_text = update(&[client(2, 0, &[&inside(1, 1)])]);
    assert_eq!(reason(&[base, into_text]), "a block is put into something that is no type");
    let at_once = update(&[client(1, 0, &[&text(1), &inside(1, 0)])]);
    assert_eq!(reason(&[at_once]), "a block is put into something that is no type");
}

#[test]
fn one_client_number_does_not_continue_in_another_place() {
    let first = update(&[client(1, 0, &[LIST, &text(2)])]);
    let more = update(&[client(1, 1, &[&text(4)])]);
    assert_eq!(decide(&[first.clone(), more]), Ok(true));
    let elsewhere = update(&[client(1, 1, &[&[4, 1, 1, b'u', 4, 1, 1, 1, 1]])]);
    assert_eq!(reason(&[first.clone(), elsewhere]), "two writers share a client number");
    let nested = update(&[client(1, 1, &[&[4, 0, 1, 0, 4, 1, 1, 1, 1]])]);
    assert_eq!(reason(&[first, nested]), "two writers share a client number");

    // What was collected goes on only in something that is deleted.
    let collected = update(&[client(1, 0, &[LIST]), client(2, 0, &[COLLECTED])]);
    let whole = |place: &[u8]| update(&[client(2, 0, &[&[&[4][..], place, &[2, 1, 1]].concat()])]);
    for place in [&[1, 1, b't'][..], &[0, 1, 0]] {
        assert_eq!(reason(&[collected.clone(), whole(place)]), "two writers share a client number");
    }
    let deletion = vec![0, 1, 1, 1, 0, 1];
    assert_eq!(decide(&[collected, deletion, whole(&[0, 1, 0])]), Ok(true));
}

/// `depth` lists in each other, from client 1 and clock 0 on, each update with `step` of them.
fn nested_lists(depth: u8, step: u8) -> Vec<Vec<u8>> {
    let blocks: Vec<Vec<u8>> = (0..depth)
        .map(|clock| match clock {
            0 => LIST.to_vec(),
            1..128 => vec![7, 0, 1, clock - 1, 0],
            128 => vec![7, 0, 1, 127, 0],
            // From 128 on a clock has two bytes.
            _ => vec![7, 0, 1, (clock - 1) | 0x80, 1, 0],
        })
        .collect();
    let starts = (0..depth).step_by(step.into());
    starts
        .zip(blocks.chunks(step.into()))
        .map(|(start, blocks)| {
            let header = |number: u8| if number < 128 { vec![number] } else { vec![number, 1] };
            [vec![1], header(blocks.len() as u8), vec![1], header(start), blocks.concat(), vec![0]].concat()
        })
        .collect()
}

#[test]
fn types_nest_only_so_deep_however_they_come() {
    for step in [1, 7, 250] {
        assert_eq!(decide(&nested_lists(NESTING_MAX, step)), Ok(true));
        assert_eq!(reason(&nested_lists(NESTING_MAX + 1, step)), "types nest too deep");
    }
}

#[test]
fn nesting_is_inherited_from_neighbours() {
    // Each list lies after a text that lies in the list before.
    let mut updates = vec![update(&[client(1, 0, &[LIST, &inside(1, 0)])])];
    for clock in (2..60_u8).step_by(2) {
        let list = [0x87, 1, clock - 1, 0];
        updates.push(update(&[client(1, clock, &[&list, &inside(1, clock)])]));
    }
    let mut known = Known::default();
    for bytes in &updates {
        let outline = read_update(bytes).expect("it has the right form");
        let admission = known.admit(&outline).expect("it is admitted");
        known.record(admission, &outline.deletions, &DeleteSet::default());
    }
    assert_eq!(known.nesting.last(), Some(&30));
}

#[test]
fn a_text_takes_one_run_for_each_client() {
    let mut known = Known::default();
    let mut random: u8 = 1;
    for clock in 0..120_u8 {
        let block = if clock == 0 { text(1) } else { after(1 + random % clock.min(2), clock - 1) };
        random = random.wrapping_mul(29).wrapping_add(7);
        for writer in [1, 2] {
            let bytes = update(&[client(writer, clock, &[&block])]);
            let outline = read_update(&bytes).expect("it has the right form");
            let admission = known.admit(&outline).expect("it is admitted");
            known.record(admission, &outline.deletions, &DeleteSet::default());
        }
    }
    assert_eq!(known.clients.values().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(known.state_vector(), [(1, 120), (2, 120)].into_iter().collect());
}

#[test]
fn lists_in_lists_share_a_level() {
    let flat = update(&[client(1, 0, &[LIST, LIST_IN_LIST, LIST_IN_LIST, LIST_IN_LIST])]);
    let mut known = Known::default();
    let outline = read_update(&flat).expect("it has the right form");
    let admission = known.admit(&outline).expect("it is admitted");
    known.record(admission, &outline.deletions, &DeleteSet::default());
    assert_eq!(known.nesting, [0, 1, 2, 2, 2]);
}

/// An update of one collected unit from each of `clients`.
fn many_clients(clients: impl ExactSizeIterator<Item = ClientNumber>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_varuint(&mut bytes, clients.len() as u64);
    for client in clients {
        bytes.push(1);
        write_varuint(&mut bytes, client);
        bytes.extend([0, 0, 1]);
    }
    bytes.push(0);
    bytes
}

#[test]
fn a_document_takes_only_so_many_clients() {
    let half = CLIENTS_MAX as u64 / 2;
    let first = many_clients((0..half as u32).map(u64::from));
    let second = many_clients((0..half as u32).map(|client| half + u64::from(client)));
    let more = many_clients([2 * half].into_iter());
    assert_eq!(decide(&[first.clone(), second.clone(), first.clone()]), Ok(false));
    assert_eq!(decide(&[first, second, more]), Err(Refusal::Full));
}

#[test]
fn client_numbers_chosen_to_collide_are_refused() {
    let colliding = |from: u32, to: u32| many_clients((from..to).map(|client| u64::from(client) << 30));
    assert_eq!(reason(&[colliding(0, 600)]), "client numbers are not random");
    assert_eq!(decide(&[colliding(0, 300), colliding(300, 500)]), Ok(true));
    assert_eq!(reason(&[colliding(0, 300), colliding(300, 600)]), "client numbers are not random");
}
