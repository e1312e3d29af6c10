//! An earlier content brought back as a new edit.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, ArrayPrelim, Doc, Map, MapPrelim, Text, TextPrelim, Transact, Update, XmlElementPrelim,
    XmlFragment, XmlTextPrelim,
};

use crate::support::{Ack, Client, Peer, Server, Stream};

/// A document of every type, whose changes are posted one by one.
struct Editor<'a> {
    client: &'a Client,
    doc: Doc,
}

impl<'a> Editor<'a> {
    fn new(client: &'a Client) -> Self {
        let options = yrs::Options { offset_kind: yrs::OffsetKind::Utf16, ..yrs::Options::default() };
        Self { client, doc: Doc::with_options(options) }
    }

    /// Makes a change and posts it. Returns the sequence that it got.
    async fn change(&self, change: impl FnOnce(&Doc, &mut yrs::TransactionMut<'_>)) -> u64 {
        let update = {
            // Roots are made before a transaction opens.
            self.doc.get_or_insert_text("text");
            self.doc.get_or_insert_map("map");
            self.doc.get_or_insert_array("array");
            self.doc.get_or_insert_xml_fragment("xml");
            let mut transaction = self.doc.transact_mut();
            change(&self.doc, &mut transaction);
            transaction.encode_update_v1()
        };
        Ack::changed(&self.client.update("a", "tab-1", &update).await).seq
    }
}

async fn shown(client: &Client) -> Value {
    client.get("/docs/a/json").await.expect_json(200)
}

async fn restore(client: &Client, body: &Value) -> Value {
    client.post("/docs/a/restore", body).await.expect_json(200)
}

#[tokio::test]
async fn every_type_is_brought_back_as_one_edit_that_everybody_follows() {
    for server in [Server::start().await, Server::start_on_disk_with(|_| {}).await] {
        let client = &server.client;
        let editor = Editor::new(client);
        let seq = editor
            .change(|doc, transaction| {
                let text = doc_text(doc, transaction);
                text.insert(transaction, 0, "Hello 😀 world");
                let bold = [("bold".into(), Any::from(true))].into();
                text.format(transaction, 6, 2, bold);
                let map = transaction_map(transaction);
                map.insert(transaction, "title", "Draft");
                map.insert(transaction, "tags", ArrayPrelim::from(["a", "b"]));
                let nested = map.insert(transaction, "nested", MapPrelim::default());
                nested.insert(transaction, "note", TextPrelim::new("inner"));
                transaction_array(transaction).insert_range(transaction, 0, [1, 2, 3]);
                let xml = transaction_xml(transaction);
                let element = xml.insert(transaction, 0, XmlElementPrelim::empty("p"));
                yrs::Xml::insert_attribute(&element, transaction, "class", "lead");
                element.insert(transaction, 0, XmlTextPrelim::new("paragraph"));
            })
            .await;
        let earlier = shown(client).await;
        let mut follower = Peer::from_update(&client.state("a").await);
        let mut stream = client.events("a", "tab-2").await;
        stream.sync().await;

        editor
            .change(|doc, transaction| {
                let text = doc_text(doc, transaction);
                text.remove_range(transaction, 0, 8);
                text.insert(transaction, 0, "Goodbye ");
                let map = transaction_map(transaction);
                map.insert(transaction, "title", "Final");
                map.remove(transaction, "nested");
                map.insert(transaction, "extra", 7);
                transaction_array(transaction).remove_range(transaction, 1, 1);
                let xml = transaction_xml(transaction);
                xml.remove_range(transaction, 0, 1);
                xml.insert(transaction, 0, XmlElementPrelim::empty("h1"));
            })
            .await;
        assert_ne!(shown(client).await, earlier);
        let restored = restore(client, &json!({ "seq": seq, "client_id": "teacher" })).await;
        assert_eq!((&restored["seq"], &restored["changed"]), (&json!(seq + 2), &json!(true)));
        assert_eq!(shown(client).await, earlier);
        assert_eq!(client.log("a").await.last().expect("an edit")["origin"], "teacher");

        follow(&mut stream, &mut follower, seq + 2).await;
        assert_eq!(follower.text(), "Hello 😀 world");
        let copy = Doc::new();
        let state = Update::decode_v1(&client.state("a").await).expect("the state is an update");
        copy.transact_mut().apply_update(state).expect("it can be applied");
        let text = copy.get_or_insert_text("text");
        let pieces = text.diff(&copy.transact(), yrs::types::text::YChange::identity);
        let bold: Vec<_> = pieces.iter().map(|piece| piece.attributes.is_some()).collect();
        assert_eq!(bold, [false, true, false], "formats come back too");

        let again = restore(client, &json!({ "seq": seq })).await;
        assert_eq!((&again["seq"], &again["changed"]), (&json!(seq + 2), &json!(false)));
    }
}

fn doc_text(_doc: &Doc, transaction: &mut yrs::TransactionMut<'_>) -> yrs::TextRef {
    yrs::ReadTxn::get_text(transaction, "text").expect("it was made")
}

fn transaction_map(transaction: &mut yrs::TransactionMut<'_>) -> yrs::MapRef {
    yrs::ReadTxn::get_map(transaction, "map").expect("it was made")
}

fn transaction_array(transaction: &mut yrs::TransactionMut<'_>) -> yrs::ArrayRef {
    yrs::ReadTxn::get_array(transaction, "array").expect("it was made")
}

fn transaction_xml(transaction: &mut yrs::TransactionMut<'_>) -> yrs::XmlFragmentRef {
    yrs::ReadTxn::get_xml_fragment(transaction, "xml").expect("it was made")
}

async fn follow(stream: &mut Stream, follower: &mut Peer, until: u64) {
    loop {
        let event = stream.event("update").await;
        follower.apply(&event.update());
        if event.seq() == until {
            return;
        }
    }
}

#[tokio::test]
async fn a_copy_that_was_offline_meanwhile_merges_with_what_was_brought_back() {
    let server = Server::start().await;
    let client = &server.client;
    let mut peer = Peer::new();
    client.write("a", "tab-1", &peer.insert(0, "one two")).await;
    let mut offline = Peer::from_update(&client.state("a").await);
    client.write("a", "tab-1", &peer.delete(0, 4)).await;
    let typed_offline = offline.push(" three");
    restore(client, &json!({ "seq": 1 })).await;
    assert_eq!(client.text("a").await, "one two");
    client.write("a", "tab-2", &typed_offline).await;
    assert_eq!(client.text("a").await, "one two three");
}

#[tokio::test]
async fn a_version_is_brought_back_by_its_name() {
    let server = Server::start_on_disk_with(|settings| settings.history.keep_updates = 8).await;
    let client = &server.client;
    let mut peer = Peer::new();
    client.write("a", "tab-1", &peer.insert(0, "draft")).await;
    client.post("/docs/a/versions", &json!({ "name": "first" })).await.expect_json(201);
    while client.get("/docs/a/updates?limit=1").await.status == 200 {
        client.write("a", "tab-1", &peer.push("x")).await;
    }
    restore(client, &json!({ "version": "first" })).await;
    assert_eq!(client.text("a").await, "draft");
}

#[tokio::test]
async fn what_cannot_be_brought_back_is_refused() {
    let server = Server::start().await;
    let client = &server.client;
    client.post("/docs/a/restore", &json!({ "seq": 1 })).await.expect_problem(404, "not_found");
    let mut peer = Peer::new();
    let ack = client.write("a", "tab-1", &peer.insert(0, "abc")).await;
    for (body, status, code) in [
        (json!({}), 400, "invalid_json"),
        (json!({ "seq": 1, "version": "v" }), 400, "invalid_json"),
        (json!({ "seq": 2 }), 404, "not_found"),
        (json!({ "version": "none" }), 404, "not_found"),
        (json!({ "seq": 1, "epoch": "aaaaaaaa" }), 409, "epoch_changed"),
        (json!({ "seq": 1, "client_id": "" }), 400, "invalid_client_id"),
    ] {
        client.post("/docs/a/restore", &body).await.expect_problem(status, code);
    }
    client.write("a", "tab-1", &peer.push("d")).await;
    client.post("/docs/a/freeze", &json!({})).await.expect_json(200);
    client.post("/docs/a/restore", &json!({ "seq": 1 })).await.expect_problem(423, "frozen");
    client.post("/docs/a/thaw", &json!({})).await.expect_json(200);
    restore(client, &json!({ "seq": 1, "epoch": ack.epoch })).await;
    assert_eq!(client.text("a").await, "abc");
    let emptied = restore(client, &json!({ "seq": 0 })).await;
    assert_eq!(emptied["changed"], true);
    assert_eq!(client.text("a").await, "");
}

/// How many histories a test makes up.
fn seeds() -> u64 {
    std::env::var("PROMPTGRIMOIRE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

#[tokio::test]
async fn whatever_was_written_any_earlier_content_can_be_brought_back() {
    let server = Server::start().await;
    let client = &server.client;
    for seed in 0..seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        client.delete("/docs/a").await;
        let editor = Editor::new(client);
        let mut history = Vec::new();
        for _ in 0..20 {
            let seq = random_change(&editor, &mut random).await;
            history.push((seq, shown(client).await));
        }
        for _ in 0..5 {
            let (seq, earlier) = &history[random.random_range(0..history.len())];
            restore(client, &json!({ "seq": seq })).await;
            assert_eq!(&shown(client).await, earlier, "seed {seed}, sequence {seq}");
        }
    }
}

/// Changes something, whatever it is.
async fn random_change(editor: &Editor<'_>, random: &mut StdRng) -> u64 {
    let (kind, place, key) = (random.random_range(0..9), random.random::<u32>(), random.random_range(0..4));
    let number = random.random_range(0..1_000_000);
    editor
        .change(|doc, transaction| {
            let text = doc_text(doc, transaction);
            let map = transaction_map(transaction);
            let array = transaction_array(transaction);
            let xml = transaction_xml(transaction);
            let key = format!("key-{key}");
            match kind {
                0 if text.len(transaction) > 0 => {
                    text.remove_range(transaction, place % text.len(transaction), 1);
                }
                1 if text.len(transaction) > 0 => {
                    let marks = [("colour".into(), Any::from(f64::from(number)))].into();
                    text.format(transaction, place % text.len(transaction), 1, marks);
                }
                2 => _ = map.insert(transaction, key, number),
                3 => _ = map.insert(transaction, key, ArrayPrelim::from([number, 2])),
                4 => _ = map.insert(transaction, key, TextPrelim::new(number.to_string())),
                5 => _ = array.insert(transaction, place % (array.len(transaction) + 1), number),
                6 if array.len(transaction) > 0 => array.remove(transaction, place % array.len(transaction)),
                7 => {
                    let at = place % (xml.len(transaction) + 1);
                    let element = xml.insert(transaction, at, XmlElementPrelim::empty("p"));
                    element.insert(transaction, 0, XmlTextPrelim::new(number.to_string()));
                }
                8 if xml.len(transaction) > 0 => xml.remove(transaction, place % xml.len(transaction)),
                _ => text.insert(transaction, place % (text.len(transaction) + 1), "ab"),
            }
        })
        .await
}

#[tokio::test]
async fn a_long_text_is_compared_run_by_run() {
    let server = Server::start().await;
    let client = &server.client;
    let mut peer = Peer::new();
    client.write("a", "tab-1", &peer.insert(0, &"long 😀 ".repeat(100_000))).await;
    client.write("a", "tab-1", &peer.insert(400_000, "inserted")).await;
    let restored = restore(client, &json!({ "seq": 1 })).await;
    assert_eq!(restored["changed"], true);
    assert_eq!(client.text("a").await, "long 😀 ".repeat(100_000));
    let edit = &client.log("a").await[2];
    assert!(edit["bytes"].as_u64().is_some_and(|bytes| bytes < 100), "only what differs is changed: {edit}");
}
