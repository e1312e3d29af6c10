//! JSON Patch on a root: what it may do, that it merges, and that it is whole or not at all.

use json_patch::{Patch, patch};
use reqwest::Method;
use serde_json::{Value, json};
use yrs::types::{Attrs, ToJson};
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, Doc, GetString, Map, MapPrelim, OffsetKind, Options, Out, ReadTxn, Text, TextPrelim,
    Transact, Update, WriteTxn, XmlElementPrelim, XmlFragment,
};

use crate::support::client::Ack;
use crate::support::{Answer, Client, Server, bytes_of};

const JSON_PATCH: &str = "application/json-patch+json";

async fn send(client: &Client, path: &str, operations: &Value) -> Answer {
    let request = client.request(Method::PATCH, path).header("content-type", JSON_PATCH);
    client.send(request.body(operations.to_string())).await
}

/// Patches the root `m` of the document `a`, which must change it.
async fn patched(client: &Client, operations: Value) -> Ack {
    Ack::changed(&send(client, "/docs/a/json?root=m", &operations).await)
}

async fn root(client: &Client, name: &str) -> Value {
    client.get(&format!("/docs/a/json?root={name}")).await.expect_json(200)
}

/// A Yjs client's copy of the document.
struct Copy(Doc);

impl Copy {
    fn new() -> Self {
        Self(Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::default() }))
    }

    async fn of(client: &Client) -> Self {
        let copy = Self::new();
        copy.apply(&client.state("a").await);
        copy
    }

    fn apply(&self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("the server sends updates only");
        self.0.transact_mut().apply_update(update).expect("what the server sends can be merged");
    }

    fn edit(&self, edit: impl FnOnce(&mut yrs::TransactionMut<'_>)) -> Vec<u8> {
        let mut transaction = self.0.transact_mut();
        edit(&mut transaction);
        transaction.encode_update_v1()
    }

    fn map(&self, name: &str) -> Value {
        let transaction = self.0.transact();
        let Some(map) = transaction.get_map(name) else { return json!({}) };
        let mut text = String::new();
        map.to_json(&transaction).to_json(&mut text);
        serde_json::from_str(&text).expect("JSON")
    }
}

#[tokio::test]
async fn a_patch_is_one_update_under_its_origin() {
    let server = Server::start().await;
    let client = &server.client;
    let mut stream = client.events("a", "tab-2").await;
    let mut own = client.events("a", "tab-1").await;
    for stream in [&mut stream, &mut own] {
        stream.event("sync").await;
    }
    let operations = json!([
        {"op": "add", "path": "/list", "value": [1, 2]},
        {"op": "add", "path": "/list/-", "value": {"deep": ["🌍"]}},
        {"op": "test", "path": "/list/2/deep", "value": ["🌍"]},
        {"op": "replace", "path": "/list/0", "value": null},
        {"op": "copy", "from": "/list/2", "path": "/copied"},
        {"op": "move", "from": "/list/1", "path": "/two"},
        {"op": "remove", "path": "/copied/deep/0"},
        {"op": "add", "path": "/a~1b~0c", "value": 1.5},
    ]);
    let answer = send(client, "/docs/a/json?root=m&client_id=tab-1", &operations).await;
    let ack = Ack::changed(&answer);
    assert_eq!(ack.seq, 1);
    let expected = json!({"a/b~c": 1.5, "copied": {"deep": []}, "list": [null, {"deep": ["🌍"]}], "two": 2});
    assert_eq!(root(client, "m").await, expected);
    let told = stream.event("update").await.json();
    assert_eq!((&told["seq"], &told["origin"]), (&json!(1), &json!("tab-1")));
    let copy = Copy::new();
    copy.apply(&bytes_of(&told["update"]));
    assert_eq!(copy.map("m"), expected);
    let log = client.log("a").await;
    assert_eq!((log.len(), &log[0]["origin"]), (1, &json!("tab-1")));
    // Its own stream is told the number only.
    assert_eq!(own.bare_id().await, ack.id());
}

#[tokio::test]
async fn a_patch_that_changes_nothing_is_no_update() {
    let server = Server::start().await;
    let client = &server.client;
    for operations in [json!([]), json!([{"op": "test", "path": "", "value": {}}])] {
        let answer = send(client, "/docs/a/json?root=m", &operations).await.expect_json(200);
        assert_eq!(answer, json!({"epoch": null, "seq": 0, "changed": false}));
    }
    client.get("/docs/a").await.expect_problem(404, "not_found");
    patched(client, json!([{"op": "add", "path": "", "value": {"a": [1, {"b": 2}]}}])).await;
    let same = json!([{"op": "replace", "path": "/a", "value": [1, {"b": 2.0}]}]);
    let answer = send(client, "/docs/a/json?root=m", &same).await.expect_json(200);
    assert_eq!((&answer["seq"], &answer["changed"]), (&json!(1), &json!(false)));
}

#[tokio::test]
async fn a_refused_patch_leaves_no_trace() {
    let server = Server::start().await;
    let client = &server.client;
    let first = json!({"op": "add", "path": "/new", "value": 1});
    let unknown = send(client, "/docs/a/json?root=m", &json!([first, {"op": "remove", "path": "/x"}])).await;
    assert_eq!(unknown.expect_problem(422, "invalid_pointer")["index"], 1);
    client.get("/docs/a").await.expect_problem(404, "not_found");

    patched(client, json!([{"op": "add", "path": "/old", "value": "x"}])).await;
    let copy = Copy::of(client).await;
    let update = copy.edit(|transaction| {
        transaction.get_or_insert_text("text").insert(transaction, 0, "🌍");
        transaction.get_or_insert_xml_fragment("xml").push_back(transaction, XmlElementPrelim::empty("p"));
        transaction.get_or_insert_text("both").insert(transaction, 0, "🌍");
        transaction.get_or_insert_map("both").insert(transaction, "key", 1);
        let element = XmlElementPrelim::empty("p");
        transaction.get_or_insert_map("m").insert(transaction, "xml", element);
    });
    client.write("a", "tab-1", &update).await;
    let before = client.get("/docs/a/json").await.expect_json(200);

    let path = "/docs/a/json?root=m";
    let test = json!([first, {"op": "test", "path": "/old", "value": "y"}]);
    assert_eq!(send(client, path, &test).await.expect_problem(409, "test_failed")["index"], 1);
    let malformed = json!([first, {"op": "add", "path": "/x"}]);
    assert_eq!(send(client, path, &malformed).await.expect_problem(422, "invalid_patch")["index"], 1);
    let root_type = json!([first, {"op": "replace", "path": "", "value": []}]);
    assert_eq!(send(client, path, &root_type).await.expect_problem(422, "wrong_type")["index"], 1);
    let xml = json!([first, {"op": "move", "from": "/xml", "path": "/y"}]);
    assert_eq!(send(client, path, &xml).await.expect_problem(422, "wrong_type")["index"], 1);
    for name in ["text", "xml", "both"] {
        let answer = send(client, &format!("/docs/a/json?root={name}"), &json!([first])).await;
        answer.expect_problem(422, "wrong_type");
    }
    send(client, "/docs/a/json?root=m&type=array", &json!([first])).await.expect_problem(422, "wrong_type");
    for (query, parameter) in
        [("", "root"), ("?root=", "root"), ("?root=m&type=text", "type"), ("?root=m&base=x", "base")]
    {
        let answer = send(client, &format!("/docs/a/json{query}"), &json!([first])).await;
        assert_eq!(answer.expect_problem(400, "invalid_parameter")["parameter"], parameter);
    }
    send(client, "/docs/a/json?root=m&client_id=%20", &json!([first]))
        .await
        .expect_problem(400, "invalid_client_id");
    send(client, "/docs/a/json?root=m&epoch=other", &json!([first]))
        .await
        .expect_problem(409, "epoch_changed");
    for body in ["", "{}", "[", "1", "null", r#"{"operations":[]}"#] {
        let request = client.request(Method::PATCH, path).header("content-type", JSON_PATCH).body(body);
        client.send(request).await.expect_problem(400, "invalid_json");
    }
    let request = client.request(Method::PATCH, path).header("content-type", "application/merge-patch+json");
    client.send(request.body("[]")).await.expect_problem(415, "unsupported_media_type");
    let copies: Vec<Value> =
        (0..60).map(|n| json!({"op": "copy", "from": "/grow", "path": format!("/grow/{n}")})).collect();
    let grow = json!({"op": "add", "path": "/grow", "value": {"a": "x".repeat(1000)}});
    let bomb = Value::Array([vec![grow], copies].concat());
    send(client, path, &bomb).await.expect_problem(413, "too_large");

    assert_eq!(client.get("/docs/a/json").await.expect_json(200), before);
    assert_eq!(client.log("a").await.len(), 2);
    // And it goes on working.
    patched(client, json!([first])).await;
}

#[tokio::test]
async fn a_patch_over_the_limit_is_refused() {
    let server = Server::start_with(|settings| settings.limits.max_update_bytes = 1000).await;
    let operations = json!([{"op": "add", "path": "/a", "value": "x".repeat(1000)}]);
    let answer = send(&server.client, "/docs/a/json?root=m", &operations).await;
    assert_eq!(answer.expect_problem(413, "too_large")["limit"], 1000);
}

#[tokio::test]
async fn an_empty_root_becomes_a_map_or_an_array() {
    let server = Server::start().await;
    let client = &server.client;
    for (name, kind, path, shown) in [
        ("a", "", "/x", json!({"x": 1})),
        ("b", "", "/0", json!([1])),
        ("c", "", "/-", json!([1])),
        ("d", "&type=map", "/0", json!({"0": 1})),
        ("e", "&type=array", "/-", json!([1])),
    ] {
        let operations = json!([{"op": "add", "path": path, "value": 1}]);
        Ack::changed(&send(client, &format!("/docs/a/json?root={name}{kind}"), &operations).await);
        assert_eq!(root(client, name).await, shown);
    }
}

#[tokio::test]
async fn others_edits_of_the_same_content_survive() {
    let server = Server::start().await;
    let client = &server.client;
    patched(client, json!([{"op": "add", "path": "", "value": {"list": [1, 2, 3], "card": {"title": "x"}}}]))
        .await;
    // Somebody who has not seen the patch that follows.
    let copy = Copy::of(client).await;
    patched(
        client,
        json!([
            {"op": "replace", "path": "", "value": {"list": [1, 5, 3], "card": {"title": "y"}}},
            {"op": "add", "path": "/card/done", "value": true},
        ]),
    )
    .await;
    let update = copy.edit(|transaction| {
        let map = transaction.get_map("m").expect("it is there");
        let Some(Out::YArray(list)) = map.get(transaction, "list") else { panic!("a list merges") };
        list.push_back(transaction, 4);
        let Some(Out::YMap(card)) = map.get(transaction, "card") else { panic!("an object merges") };
        card.insert(transaction, "author", "me");
    });
    client.write("a", "tab-1", &update).await;
    let expected = json!({"card": {"author": "me", "done": true, "title": "y"}, "list": [1, 5, 3, 4]});
    assert_eq!(root(client, "m").await, expected);
    copy.apply(&client.state("a").await);
    assert_eq!(copy.map("m"), expected);
}

#[tokio::test]
async fn a_text_inside_keeps_its_formats_and_others_cursors() {
    let server = Server::start().await;
    let client = &server.client;
    let copy = Copy::new();
    let update = copy.edit(|transaction| {
        let map = transaction.get_or_insert_map("m");
        let text = map.insert(transaction, "title", TextPrelim::new("Hello 🌍 world"));
        text.format(transaction, 0, 5, Attrs::from([("bold".into(), Any::from(true))]));
        text.insert_embed(transaction, 5, Any::from_json(r#"{"image":"a.png"}"#).expect("JSON"));
        map.insert(transaction, "plain", Any::from_json(r#"{"a":{"b":1}}"#).expect("JSON"));
    });
    client.write("a", "tab-1", &update).await;
    patched(client, json!([{"op": "replace", "path": "/title", "value": "Hello 🌎 world!"}])).await;
    // Meanwhile, in the middle of what stayed.
    let update = copy.edit(|transaction| {
        let map = transaction.get_map("m").expect("it is there");
        let Some(Out::YText(text)) = map.get(transaction, "title") else { panic!("a text") };
        text.insert(transaction, 10, "wide ");
    });
    client.write("a", "tab-1", &update).await;
    assert_eq!(root(client, "m").await["title"], "Hello 🌎 wide world!");

    // A text that is moved or copied stays a text with all that is in it; a stored value stays stored.
    patched(
        client,
        json!([
            {"op": "replace", "path": "/title", "value": "Hello"},
            {"op": "copy", "from": "/title", "path": "/copy"},
            {"op": "move", "from": "/title", "path": "/moved"},
            {"op": "add", "path": "/plain/a/c", "value": [2]},
        ]),
    )
    .await;
    let expected = json!({"copy": "Hello", "moved": "Hello", "plain": {"a": {"b": 1, "c": [2]}}});
    assert_eq!(root(client, "m").await, expected);
    let copy = Copy::of(client).await;
    let transaction = copy.0.transact();
    let map = transaction.get_map("m").expect("it is there");
    for key in ["copy", "moved"] {
        let Some(Out::YText(text)) = map.get(&transaction, key) else { panic!("a text") };
        assert_eq!(text.get_string(&transaction), "Hello");
        let pieces = text.diff(&transaction, yrs::types::text::YChange::identity);
        assert_eq!(pieces.len(), 2, "a bold word and an image");
        assert!(pieces[0].attributes.is_some());
    }
    assert!(matches!(map.get(&transaction, "plain"), Some(Out::Any(_))));
}

#[tokio::test]
async fn a_patch_on_a_base_is_merged_with_what_has_happened_since() {
    let server = Server::start().await;
    let client = &server.client;
    let begin = json!({"list": ["a", "b", "c"], "card": {"title": "x", "gone": 1}});
    let base = patched(client, json!([{"op": "add", "path": "", "value": begin}])).await;
    patched(
        client,
        json!([
            {"op": "add", "path": "/list/0", "value": "new"},
            {"op": "remove", "path": "/card/gone"},
            {"op": "add", "path": "/card/by", "value": "other"},
        ]),
    )
    .await;
    // Indices and tests are about the base.
    let operations = json!([
        {"op": "test", "path": "/card/gone", "value": 1},
        {"op": "replace", "path": "/list/1", "value": "B"},
        {"op": "replace", "path": "/card/title", "value": "y"},
    ]);
    for seq in [base.seq.to_string(), base.id()] {
        let expected = json!({"card": {"by": "other", "title": "y"}, "list": ["new", "a", "B", "c"]});
        let answer = send(client, &format!("/docs/a/json?root=m&base={seq}"), &operations).await;
        let written = Ack::changed(&answer);
        if written.seq == 3 {
            assert_eq!(root(client, "m").await, expected);
        }
        let copy = Copy::of(client).await;
        assert_eq!(copy.map("m"), root(client, "m").await);
    }
    let after = send(client, "/docs/a/json?root=m&base=9", &operations).await;
    after.expect_problem(422, "invalid_base");
    let other = send(client, "/docs/a/json?root=m&base=other.1", &operations).await;
    other.expect_problem(409, "epoch_changed");
    // On the head it is a patch like any other.
    let head = client.get("/docs/a").await.expect_json(200)["seq"].clone();
    let touch = json!([{"op": "add", "path": "/head", "value": true}]);
    Ack::changed(&send(client, &format!("/docs/a/json?root=m&base={head}"), &touch).await);
}

#[tokio::test]
async fn a_patch_with_a_key_is_made_once() {
    let server = Server::start().await;
    let client = &server.client;
    let append = json!([{"op": "add", "path": "/-", "value": 1}]);
    let send_once = async |operations: &Value| {
        let request = client.request(Method::PATCH, "/docs/a/json?root=l").header("idempotency-key", "k1");
        client.send(request.header("content-type", JSON_PATCH).body(operations.to_string())).await
    };
    let first = send_once(&append).await.expect_json(200);
    assert_eq!(send_once(&append).await.expect_json(200), first);
    assert_eq!(root(client, "l").await, json!([1]));
    let other = json!([{"op": "add", "path": "/-", "value": 2}]);
    send_once(&other).await.expect_problem(422, "idempotency_key_reused");
}

/// Both write the same keys and the same places, each without the other's last patch.
#[tokio::test]
async fn a_patching_script_and_a_yjs_client_converge() {
    let server = Server::start().await;
    let client = &server.client;
    patched(client, json!([{"op": "add", "path": "/list", "value": [0]}])).await;
    let copy = Copy::of(client).await;
    for round in 0..20 {
        let update = copy.edit(|transaction| {
            let map = transaction.get_map("m").expect("it is there");
            map.insert(transaction, "turn", format!("yjs {round}"));
            let Some(Out::YArray(list)) = map.get(transaction, "list") else { panic!("a list") };
            list.insert(transaction, 0, MapPrelim::from([("yjs", round)]));
        });
        patched(
            client,
            json!([
                {"op": "add", "path": "/turn", "value": format!("script {round}")},
                {"op": "add", "path": "/list/0", "value": {"script": round}},
            ]),
        )
        .await;
        client.write("a", "tab-1", &update).await;
        if round % 3 == 0 {
            copy.apply(&client.state("a").await);
        }
    }
    copy.apply(&client.state("a").await);
    let shown = root(client, "m").await;
    assert_eq!(copy.map("m"), shown);
    assert_eq!(shown["list"].as_array().expect("a list").len(), 41);
    // The server has written under one number of its own.
    let state = copy.0.transact().state_vector();
    assert_eq!(state.iter().count(), 2);
}

/// Draws from a seed; xorshift, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 6 } else { 9 }) {
            0 => json!(null),
            1 => json!(self.below(2) == 0),
            2 => json!(self.below(1000)),
            3 => json!(self.below(1000) as f64 / 8.0 + 0.0625),
            4 => json!("🌍é".repeat(self.below(3))),
            5 => json!(format!("s{}", self.below(10))),
            6 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let entries = (0..self.below(4)).map(|_| (self.key(), self.value(depth - 1)));
                Value::Object(entries.collect())
            }
        }
    }

    fn key(&mut self) -> String {
        ["a", "b", "c", "a/b", "~", "", "é🌍", "0"][self.below(8)].to_owned()
    }

    /// A pointer into the value, and whether something is there. `insert`: it may also say where something new goes.
    fn pointer(&mut self, value: &Value, insert: bool) -> String {
        let mut pointer = String::new();
        let mut value = value;
        loop {
            let (token, next) = match value {
                Value::Object(object) if insert && (object.is_empty() || self.below(3) == 0) => {
                    (self.key(), None)
                }
                Value::Array(list) if insert && (list.is_empty() || self.below(3) == 0) => {
                    let index = self.below(list.len() + 2);
                    (if index > list.len() { "-".to_owned() } else { index.to_string() }, None)
                }
                Value::Object(object) if !object.is_empty() => {
                    let (key, next) = object.iter().nth(self.below(object.len())).expect("within");
                    (key.clone(), Some(next))
                }
                Value::Array(list) if !list.is_empty() => {
                    let index = self.below(list.len());
                    (index.to_string(), Some(&list[index]))
                }
                _ => return pointer,
            };
            pointer.push('/');
            pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
            match next {
                Some(next) if self.below(3) > 0 => value = next,
                _ => return pointer,
            }
        }
    }

    fn operation(&mut self, value: &Value) -> Value {
        match self.below(8) {
            0..3 => json!({"op": "add", "path": self.pointer(value, true), "value": self.value(3)}),
            3 => json!({"op": "remove", "path": self.pointer(value, false)}),
            4 => json!({"op": "replace", "path": self.pointer(value, false), "value": self.value(3)}),
            5 => json!({"op": "move", "from": self.pointer(value, false), "path": self.pointer(value, true)}),
            6 => json!({"op": "copy", "from": self.pointer(value, false), "path": self.pointer(value, true)}),
            _ => {
                let path = self.pointer(value, false);
                let there = value.pointer(&path).cloned().unwrap_or_default();
                json!({"op": "test", "path": path, "value": there})
            }
        }
    }
}

/// What RFC 6902 says comes out, as another implementation of it reads it.
#[tokio::test]
async fn random_patches_do_what_another_implementation_does() {
    let server = Server::start().await;
    let client = &server.client;
    let seeds =
        std::env::var("PROMPTGRIMOIRE_SEEDS").ok().map_or(6_u64, |count| count.parse().expect("a number"));
    for seed in 1..=seeds {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let document = format!("seed-{seed}");
        let path = format!("/docs/{document}/json?root=m&type=map");
        let mut stream = client.events(&document, "follower").await;
        stream.event("sync").await;
        let follower = Copy::new();
        let mut model = json!({});
        for _ in 0..60 {
            let mut next = model.clone();
            let mut operations = Vec::new();
            let mut fits = true;
            for _ in 0..=dice.below(5) {
                let operation = dice.operation(&next);
                let parsed: Patch = serde_json::from_value(json!([operation])).expect("well formed");
                operations.push(operation);
                fits = patch(&mut next, &parsed).is_ok() && next.is_object() && next.to_string().len() < 4000;
                if !fits {
                    break;
                }
            }
            if !fits && next.is_object() && next.to_string().len() >= 4000 {
                // Larger than the test likes it, not than the server does.
                continue;
            }
            let operations = Value::Array(operations);
            let answer = send(client, &path, &operations).await;
            if !fits {
                assert!([409, 422].contains(&answer.status), "seed {seed}: {operations}: {}", answer.text());
                continue;
            }
            let body = answer.expect_json(200);
            model = next;
            if body["changed"] == true {
                let told = stream.event("update").await.json();
                assert_eq!(told["seq"], body["seq"]);
                follower.apply(&bytes_of(&told["update"]));
            }
            // A root that holds nothing is not shown, and a document never written is none.
            let answer = client.get(&format!("/docs/{document}/json?root=m")).await;
            let shown = if answer.status == 404 { json!({}) } else { answer.expect_json(200) };
            assert_eq!(shown, model, "seed {seed}: {operations}");
            assert_eq!(follower.map("m"), model, "seed {seed}: {operations}");
        }
    }
}
