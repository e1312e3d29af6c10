//! Updates that must be refused, each with the rule it breaks, and those that must not.

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).expect("hex is ASCII"), 16).expect("hex"))
        .collect()
}

/// Each of these has crashed, hung or inflated something that decodes updates in good faith.
const REFUSED: [(&str, &str); 10] = [
    ("010101000201016100013100", "3: JSON content"),
    ("0101000200ffffffff0f00", "1: a block beyond the clock limit"),
    ("010101ffffffff0f000100", "1: a clock beyond the limit"),
    ("010302feffffff0f0001a3020103010203000100", "1: a clock beyond the limit"),
    ("010203ffffffff0f0601016d0169046e756c6c000200", "1: a clock beyond the limit"),
    ("010201ffffffff0f00800100010101010000", "1: a clock beyond the limit"),
    ("02010305030100000103000601010000047472756500", "1: a client twice"),
    ("02020309220100000001000001010309000100", "3: JSON content"),
    ("03020304000102010002000000020307640305030000008103070100000000", "1: a client twice"),
    ("80c2d72f", "1: a count beyond the bytes"),
];

#[test]
fn what_no_client_writes_is_refused() {
    for (hex, rule) in REFUSED {
        assert!(read_update(&unhex(hex)).is_err(), "{hex} breaks rule {rule}");
    }
}

#[test]
fn an_emoji_in_a_root_text_passes() {
    let bytes = unhex("010102000401017404f09f988000");
    let outline = read_update(&bytes).expect("a genuine update");
    assert_eq!(outline.clients, [ClientBlocks { client: 2, first: 0, count: 1 }]);
    let place = Place::Root { name: "t", keyed: false };
    assert_eq!(
        outline.blocks,
        [Block { clock: 0, length: 2, kind: Kind::Value, place, bytes: outline.blocks[0].bytes }]
    );
    assert_eq!((outline.structs_end, outline.deletions.is_empty()), (13, true));
}

/// One client, number 1, from clock 0, with these blocks; nothing deleted.
fn blocks(count: u8, blocks: &[u8]) -> Vec<u8> {
    [&[1, count, 1, 0], blocks, &[0]].concat()
}

fn reason(bytes: &[u8]) -> &'static str {
    match read_update(bytes) {
        Err(FormatError::Invalid { reason, .. }) => reason,
        other => panic!("{bytes:?} was read as {other:?}"),
    }
}

#[test]
fn every_rule_names_itself() {
    const TEXT_A: [u8; 6] = [4, 1, 1, b't', 1, b'a'];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "the bytes end too early"),
        (vec![0, 0, 0], "trailing bytes"),
        (vec![1, 0, 1, 0, 0], "a count is larger than the bytes that remain"),
        (vec![1, 0, 1, 0, 0, 0, 0], "a client without blocks"),
        (vec![1, 1, 0x81, 0, 0, 0, 1, 0], "a number is not in its shortest form"),
        (blocks(1, &[0, 0]), "an empty block"),
        (blocks(1, &[1, 1, 1, b't', 0]), "an empty block"),
        (blocks(1, &[4, 1, 1, b't', 0]), "an empty block"),
        (blocks(1, &[8, 1, 1, b't', 0]), "an empty block"),
        (blocks(1, &[0x80, 2, 0, 3]), "a block without content has a place"),
        (blocks(1, &[0x4a, 2, 0, 3]), "a block without content has a place"),
        (blocks(1, &[10, 3]), "a skip stands between two other blocks"),
        (blocks(2, &[0, 1, 10, 3]), "a skip stands between two other blocks"),
        (blocks(4, &[0, 1, 10, 3, 10, 1, 0, 1]), "a skip stands between two other blocks"),
        (blocks(1, &[11, 1, 1, b't', 1]), "a block of an unknown kind"),
        (blocks(1, &[0x14, 1, 1, b't', 1, b'a']), "a block of an unknown kind"),
        (blocks(1, &[4, 2, 1, b't', 1, b'a']), "a parent is neither a root nor a block"),
        (blocks(1, &[4, 1, 1, 0xff, 1, b'a']), "a string is not UTF-8"),
        (blocks(1, &[0x84, 1, 0, 1, b'a']), "a block refers to itself or to what comes after it"),
        (blocks(1, &[0x44, 1, 7, 1, b'a']), "a block refers to itself or to what comes after it"),
        (blocks(1, &[4, 0, 1, 0, 1, b'a']), "a block refers to itself or to what comes after it"),
        (blocks(1, &[5, 1, 1, b't', 1, b'{']), "an embedded value is not JSON"),
        (blocks(1, &[6, 1, 1, b't', 1, b'b', 3, b'y', b'e', b's']), "an embedded value is not JSON"),
        (blocks(1, &[7, 1, 1, b't', 9]), "a type of an unknown kind"),
        (blocks(1, &[7, 1, 1, b't', 15]), "a type of an unknown kind"),
        ([&[1, 1, 1, 0], &TEXT_A[..], &[1, 1, 0]].concat(), "a count is larger than the bytes that remain"),
        (
            [&[1, 1, 1, 0], &TEXT_A[..], &[1, 1, 2, 1, 1, 0, 1]].concat(),
            "deleted ranges are unsorted or overlap",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(reason(&bytes), expected, "{bytes:?}");
    }
}

#[test]
fn clients_in_any_order_are_told_apart() {
    let of = |client: u8| vec![1, client, 0, 0, 1];
    let update = |clients: &[u8]| {
        [vec![clients.len() as u8], clients.iter().flat_map(|&client| of(client)).collect(), vec![0]].concat()
    };
    for order in [[9, 5, 1], [1, 5, 9], [9, 1, 5]] {
        assert!(read_update(&update(&order)).is_ok(), "{order:?}");
    }
    for order in [[9, 9, 1], [9, 5, 9], [5, 9, 5], [1, 9, 9]] {
        assert_eq!(reason(&update(&order)), "a client occurs twice", "{order:?}");
    }
}

#[test]
fn what_the_library_cannot_keep_has_an_error_of_its_own() {
    let cases: [(&[u8], &str); 4] = [
        (&[2, 1, 1, b't', 1, 1, b'1'], "the JSON content of old Yjs versions"),
        (&[9, 1, 1, b't', 1, b'g', 118, 0], "sub-documents"),
        (&[7, 1, 1, b't', 5, 1, b'h'], "XML hooks"),
        (&[7, 1, 1, b't', 7, 0, 1, 0], "weak links"),
    ];
    for (block, content) in cases {
        assert_eq!(read_update(&blocks(1, block)), Err(FormatError::Unsupported { content }));
    }
}

#[test]
fn places_and_kinds_are_told_apart() {
    let update = [
        &[1, 7, 1, 0][..],
        &[7, 1, 1, b'x', 3, 1, b'p'], // clock 0: an XML element in the root `x`
        &[0x28, 0, 1, 0, 1, b'k', 1, 119, 1, b'v'], // clock 1: its attribute `k`
        &[4, 0, 1, 0, 2, b'h', b'i'], // clocks 2 and 3: text in it
        &[0xc4, 1, 2, 1, 3, 1, b'!'], // clock 4: between those two
        &[1, 0, 1, 0, 3],             // clocks 5 to 7: deleted
        &[0, 1, 0, 1],                // clocks 8 and 9: collected, in two blocks
        &[1, 1, 1, 5, 3],
    ]
    .concat();
    let outline = read_update(&update).expect("a genuine update");
    let element = Id { client: 1, clock: 0 };
    let id = |clock| Some(Id { client: 1, clock });
    let expected = [
        (0, 1, Kind::Type, Place::Root { name: "x", keyed: false }),
        (1, 1, Kind::Value, Place::Type { id: element, keyed: true }),
        (2, 2, Kind::Value, Place::Type { id: element, keyed: false }),
        (4, 1, Kind::Value, Place::Beside { origin: id(2), right_origin: id(3) }),
        (5, 3, Kind::Deleted, Place::Type { id: element, keyed: false }),
        (8, 2, Kind::Collected, Place::Nowhere),
    ];
    let blocks: Vec<_> =
        outline.blocks.iter().map(|block| (block.clock, block.length, block.kind, block.place)).collect();
    assert_eq!(blocks, expected);
    assert_eq!(outline.deletions.iter().collect::<Vec<_>>(), [(1, 5..8)]);
}

#[test]
fn a_formatting_mark_has_a_name_wherever_it_stands() {
    for (hex, name) in [
        // Into a root, into a type, beside others on the left, the right, and both; last a string.
        ("0101010006010174016204747275650000", None),
        ("01010100060101740162047472756500", Some("b")),
        ("0101010126010174016b0162047472756500", Some("b")),
        ("010101020600010001620474727565 00", Some("b")),
        ("01010102860100016204747275 6500", Some("b")),
        ("01010102460100016204747275 6500", Some("b")),
        ("01010102c601000101016204747275 6500", Some("b")),
        ("010102000401017404f09f988000", None),
    ] {
        let bytes = unhex(&hex.replace(' ', ""));
        let read = read_update(&bytes);
        let found = read.as_ref().ok().and_then(|outline| outline.blocks[0].format_name());
        assert_eq!(found, name, "{hex}: {read:?}");
    }
}
