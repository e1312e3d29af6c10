//! What the roots of a document hold, as JSON: whatever made them, and whatever was done to mislead.

use reqwest::Method;
use serde_json::{Value, json};
use yrs::types::Attrs;
use yrs::{
    Any, Array, Doc, Map, MapPrelim, OffsetKind, Options, ReadTxn, StateVector, Text, TextPrelim, Transact,
    WriteTxn, XmlElementPrelim, XmlFragment, XmlTextPrelim,
};

use crate::support::{Peer, Server, from_base64};

/// What Yjs 13.6.33 wrote: `text` with a format and an embed, `meta` with every kind of value, `list`, `xml`, `gone`.
const MADE_BY_YJS: &str = "ASQHAAQBBHRleHQDSMOphAcBBiDwn4yNIUYHAARib2xkBHRydWXGBwEHAgRib2xkBG51bGzFBwcHAhF7ImltYWdlIj\
    oiYS5wbmcifSgBBG1ldGEFcGxhaW4BdgIBYnUDfQF8QCAAAHYBAWN+AWF3AXgoAQRtZXRhBXVuZGVmAX8oAQRtZXRhA25hbgF7f/gAAAAAAAAoAQRtZX\
    RhA2luZgF8/4AAACgBBG1ldGEDYmlnAXoAIAAAAAAAASgBBG1ldGEDaW50AXtDP////////ygBBG1ldGEDbmVnAX1AIwEEbWV0YQVieXRlcwMA/xAnAQ\
    RtZXRhBm5lc3RlZAEnAAcRBXRpdGxlAgQABxIBVIQHEwTwn4yNRgcTAmVtBHRydWXGBxMHFAJlbQRudWxsCAEEbGlzdAJ9AXcDdHdvhwcZAIgHGgF2AQ\
    V0aHJlZX0DCAAHGgF4hwccAQcBA3htbAMBUCgABx4CaWQBdwJwMSgABx4FY2xhc3MBdwFjBwAHHgYEAAchBUhlbGxvhAcmBSDwn4yNRgciAWIReyJ4Ij\
    oiMSIsImEiOiIyIn3GByoHIgFhAnt9xgcmBycBYgRudWxsxgcsBycBYQRudWxshwchAwJicgEBBGdvbmUDAQcBLwM=";

/// A document that one transaction of yrs has made.
fn written(number: u64, write: impl FnOnce(&mut yrs::TransactionMut<'_>)) -> Vec<u8> {
    let doc = Doc::with_options(Options {
        offset_kind: OffsetKind::Utf16,
        ..Options::with_client_id(yrs::block::ClientID::new(number))
    });
    write(&mut doc.transact_mut());
    doc.transact().encode_state_as_update_v1(&StateVector::default())
}

async fn json_of(update: &[u8]) -> (Value, Value, Option<String>) {
    let server = Server::start().await;
    server.client.write("a", "tab-1", update).await;
    let plain = server.client.get("/docs/a/json").await;
    let typed = server.client.get("/docs/a/json?types=1").await;
    let undetermined = plain.header("undetermined-roots").map(str::to_owned);
    assert_eq!(typed.header("undetermined-roots"), undetermined.as_deref());
    (plain.expect_json(200), typed.expect_json(200)["roots"].clone(), undetermined)
}

#[tokio::test]
async fn what_yjs_has_written_is_shown_as_what_it_is() {
    let update = from_base64(&MADE_BY_YJS.replace([' ', '\n'], ""));
    let (shown, typed, undetermined) = json_of(&update).await;
    let expected = json!({
        "list": [1, "two", [true, {}], {"three": 3}],
        "meta": {
            "big": 9_007_199_254_740_993_i64, "bytes": "AP8Q", "inf": null, "int": 9_007_199_254_740_991_i64, "nan": null,
            "neg": 0, "nested": {"title": "T🌍"}, "plain": {"a": "x", "b": [1, 2.5, {"c": null}]}, "undef": null,
        },
        "text": "Hé 🌍!",
        // Byte for byte what `toString` gives there.
        "xml": r#"<p class="c" id="p1"><a><b a="2" x="1">Hello</b></a> 🌍<br></br></p>"#,
    });
    assert_eq!(shown, expected);
    assert_eq!(shown.to_string(), expected.to_string(), "keys are sorted");
    assert_eq!(undetermined, None);
    for (name, kind) in [("list", "array"), ("meta", "map"), ("text", "text"), ("xml", "xml")] {
        assert_eq!(typed[name], json!({"type": kind, "value": expected[name]}));
    }
}

#[tokio::test]
async fn what_yrs_has_written_is_shown_as_what_it_is() {
    let update = written(1, |transaction| {
        let text = transaction.get_or_insert_text("text");
        text.insert_with_attributes(transaction, 0, "🌍", Attrs::from([("bold".into(), Any::from(true))]));
        let list = transaction.get_or_insert_array("list");
        list.push_back(transaction, TextPrelim::new("nested 🌍"));
        list.push_back(transaction, XmlElementPrelim::empty("BR"));
        let map = transaction.get_or_insert_map("map");
        map.insert(transaction, "key", MapPrelim::from([("inner", 1)]));
        map.insert(transaction, "gone", 1);
        map.remove(transaction, "gone");
        let xml = transaction.get_or_insert_xml_fragment("xml");
        xml.push_back(transaction, XmlTextPrelim::new("a 🌍"));
    });
    let (shown, typed, _) = json_of(&update).await;
    let expected = json!({"list": ["nested 🌍", "<br></br>"], "map": {"key": {"inner": 1}}, "text": "🌍", "xml": "a 🌍"});
    assert_eq!(shown, expected);
    assert_eq!(typed["xml"]["type"], "xml");
}

#[tokio::test]
async fn a_text_of_embeds_only_is_a_text() {
    let update = written(1, |transaction| {
        let text = transaction.get_or_insert_text("text");
        text.insert_embed(transaction, 0, Any::from_json(r#"{"image":"a.png"}"#).expect("JSON"));
    });
    assert_eq!(json_of(&update).await.0, json!({"text": ""}));
}

#[tokio::test]
async fn a_root_that_is_two_things_is_said_to_be_undetermined() {
    let update = written(1, |transaction| {
        transaction.get_or_insert_text("a, b").insert(transaction, 0, "🌍");
        transaction.get_or_insert_map("a, b").insert(transaction, "key", 1);
        transaction.get_or_insert_array("c").push_back(transaction, 1);
        transaction.get_or_insert_map("c").insert(transaction, "key", 2);
        transaction.get_or_insert_array("d").push_back(transaction, 1);
        transaction.get_or_insert_text("d").insert(transaction, 0, "text 🌍");
    });
    let (shown, typed, undetermined) = json_of(&update).await;
    assert_eq!(shown, json!({"a, b": "🌍", "c": {"key": 2}, "d": "text 🌍"}));
    assert_eq!(undetermined.as_deref(), Some("a%2C%20b, c, d"));
    assert_eq!(
        typed,
        json!({
            "a, b": {"type": "undetermined", "value": "🌍", "rest": {"key": 1}},
            "c": {"type": "undetermined", "value": {"key": 2}, "rest": [1]},
            "d": {"type": "undetermined", "value": "text 🌍"},
        })
    );
}

/// Each of these is legal, and hangs or overflows whoever asks the CRDT library for the wrong thing.
#[tokio::test]
async fn roots_made_to_mislead_are_shown_at_once() {
    // A root text with one emoji.
    assert_eq!(
        json_of(&[1, 1, 1, 0, 4, 1, 1, b't', 4, 0xf0, 0x9f, 0x98, 0x80, 0]).await.0,
        json!({"t": "😀"})
    );
    // A nested array, a nested element, a nested map that hold an emoji as texts do.
    for (kind, shown) in [(&[0][..], json!(null)), (&[3, 1, b'P'], json!("<p>😀</p>")), (&[1], json!({}))] {
        let string = [4, 0, 1, 0, 4, 0xf0, 0x9f, 0x98, 0x80];
        let update = [&[1, 2, 1, 0, 0x27, 1, 1, b'm', 1, b'k'][..], kind, &string, &[0]].concat();
        assert_eq!(json_of(&update).await.0, json!({"m": {"k": shown}}));
    }
    // Keys that hold formats: thousands in a row that an iterator would step over by recursion.
    let mut keyed = vec![1];
    push_varuint(&mut keyed, 50_000);
    keyed.extend([1, 0]);
    for number in 0..50_000 {
        let key = format!("{number:05}");
        keyed.extend([0x26, 1, 1, b'm', 5]);
        keyed.extend(key.as_bytes());
        keyed.extend([1, b'b', 4, b't', b'r', b'u', b'e']);
    }
    keyed.push(0);
    assert_eq!(json_of(&keyed).await.0, json!({}));
}

/// Formats that are all open over many embeds: taken to pieces that would be a billion copies.
#[tokio::test]
async fn a_text_of_too_many_formats_is_shown_at_once_and_not_edited() {
    const FORMATS: u64 = 30_000;
    let mut update = vec![1];
    push_varuint(&mut update, 2 * FORMATS);
    update.extend([1, 0]);
    for number in 0..2 * FORMATS {
        if number == 0 {
            update.extend([6, 1, 1, b't']);
        } else {
            update.extend([if number < FORMATS { 0x86 } else { 0x85 }, 1]);
            push_varuint(&mut update, number - 1);
        }
        if number < FORMATS {
            let name = format!("{number:05}");
            update.push(5);
            update.extend(name.as_bytes());
        }
        update.extend([1, b'1']);
    }
    update.push(0);
    let server = Server::start().await;
    let client = &server.client;
    client.write("a", "tab-1", &update).await;
    let shown = client.get("/docs/a/json").await.expect_json(200);
    assert_eq!(shown["t"].as_array().map(Vec::len), Some(30_000), "it can't be told from a list");
    let edit =
        client.request(Method::PUT, "/docs/a/text?root=t").header("content-type", "text/plain").body("x");
    client.send(edit).await.expect_problem(422, "invalid_update");
}

fn push_varuint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[tokio::test]
async fn the_deepest_documents_are_shown() {
    for (first, inner) in [
        (&[7, 1, 1, b'l', 0][..], &[0][..]),
        (&[0x27, 1, 1, b'm', 1, b'k', 1], &[1, b'k', 1]),
        (&[7, 1, 1, b'x', 3, 1, b'p'], &[3, 1, b'p']),
    ] {
        let mut update = vec![1];
        push_varuint(&mut update, 200);
        update.extend([1, 0]);
        update.extend(first);
        for clock in 1..200_u64 {
            update.extend([7 | (first[0] & 0x20), 0, 1]);
            push_varuint(&mut update, clock - 1);
            update.extend(inner);
        }
        update.push(0);
        let server = Server::start().await;
        server.client.write("a", "tab-1", &update).await;
        let answer = server.client.get("/docs/a/json").await;
        assert_eq!(answer.status, 200);
        let depth = answer.text().matches(['{', '[']).count().max(answer.text().matches("<p>").count());
        assert!(depth >= 200, "{depth}");
    }
}

#[tokio::test]
async fn one_root_is_asked_for_by_name() {
    let server = Server::start().await;
    let update = written(1, |transaction| {
        transaction.get_or_insert_map("a b").insert(transaction, "key", 1);
    });
    server.client.write("a", "tab-1", &update).await;
    assert_eq!(server.client.get("/docs/a/json?root=a%20b").await.expect_json(200), json!({"key": 1}));
    let typed = server.client.get("/docs/a/json?root=a%20b&types=1").await.expect_json(200);
    assert_eq!(typed, json!({"type": "map", "value": {"key": 1}}));
    server.client.get("/docs/a/json?root=b").await.expect_problem(404, "not_found");
    server.client.get("/docs/a/json?types=2").await.expect_problem(400, "invalid_parameter");
}

#[tokio::test]
async fn json_has_a_tag_a_history_and_a_head() {
    let server = Server::start().await;
    let client = &server.client;
    client.get("/docs/a/json").await.expect_problem(404, "not_found");
    let mut peer = Peer::new();
    let first = client.write("a", "tab-1", &peer.insert(0, "one")).await;
    let second = client.write("a", "tab-1", &peer.insert(3, " two")).await;
    let answer = client.get("/docs/a/json").await;
    let tag = format!("\"{}\"", second.id());
    assert_eq!(answer.header("etag"), Some(tag.as_str()));
    for path in ["/docs/a/json", "/docs/a/json?root=text"] {
        assert_eq!(client.get_with(path, "if-none-match", &tag).await.status, 304);
        let older = format!("\"{}\"", first.id());
        assert_eq!(client.get_with(path, "if-none-match", &older).await.status, 200);
        let head = client.send(client.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some(tag.as_str()), 0));
    }
    let then = client.get("/docs/a/json?at=1").await;
    assert_eq!(then.header("etag"), Some(format!("\"{}\"", first.id()).as_str()));
    assert_eq!(then.expect_json(200), json!({"text": "one"}));
    client.get("/docs/a/json?at=3").await.expect_problem(404, "not_found");
    client.get("/docs/a/json?at=x").await.expect_problem(400, "invalid_parameter");
    client.get_with("/docs/a/json", "accept", "text/plain").await.expect_problem(406, "not_acceptable");
    let posted = client.post("/docs/a/json", &json!({})).await;
    posted.expect_problem(405, "method_not_allowed");
    assert_eq!(posted.header("allow"), Some("GET, HEAD, PATCH"));
    // A read creates nothing.
    client.get("/docs/b").await.expect_problem(404, "not_found");
}
