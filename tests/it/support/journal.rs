//! What clients were told, kept beside the server so that a later server can be asked whether it still holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{Client, Frame, Peer, bytes_of};

/// Everything that was acknowledged or seen, document by document.
#[derive(Debug, Default)]
pub struct Journal {
    documents: HashMap<String, Told>,
}

#[derive(Debug, Default)]
struct Told {
    epoch: Option<String>,
    /// What must be in the log at its sequence, byte for byte.
    logged: BTreeMap<u64, Vec<u8>>,
    /// What must be in the document, wherever in the log it came from.
    contained: Vec<Vec<u8>>,
    head: u64,
}

impl Told {
    fn is_of(&mut self, epoch: &str) {
        let known = self.epoch.get_or_insert_with(|| epoch.to_owned());
        assert_eq!(known, epoch, "a document has one epoch while it lives");
    }

    fn logged(&mut self, seq: u64, update: &[u8]) {
        self.head = self.head.max(seq);
        let known = self.logged.entry(seq).or_insert_with(|| update.to_owned());
        assert_eq!(known, update, "two updates were told to be sequence {seq}");
    }
}

impl Journal {
    /// Notes that `update` was answered 200 with `answer`.
    pub fn acknowledged(&mut self, document: &str, update: &[u8], answer: &Value) {
        let told = self.documents.entry(document.to_owned()).or_default();
        let seq = answer["seq"].as_u64().expect("a sequence");
        told.is_of(answer["epoch"].as_str().expect("an epoch"));
        if answer["changed"] == true {
            told.logged(seq, update);
        } else {
            told.contained.push(update.to_owned());
            told.head = told.head.max(seq);
        }
    }

    /// Notes what came on a stream.
    pub fn saw(&mut self, document: &str, frame: &Frame) {
        let told = self.documents.entry(document.to_owned()).or_default();
        let event = match frame {
            Frame::Event(event) if event.name == "sync" || event.name == "update" => event,
            _ => return,
        };
        let Some((epoch, _)) = event.id.as_deref().and_then(|id| id.split_once('.')) else { return };
        told.is_of(epoch);
        let is_one_update = event.name == "update" && event.json().get("from").is_none();
        if is_one_update {
            told.logged(event.seq(), &event.update());
        } else {
            told.contained.push(event.update());
            told.head = told.head.max(event.seq());
        }
    }

    /// How many updates were acknowledged, or seen, under a sequence of their own.
    pub fn count(&self) -> usize {
        self.documents.values().map(|told| told.logged.len()).sum()
    }

    /// Asks a server whether it still has all of it, and nothing twice.
    pub async fn check(&self, client: &Client) {
        for (document, told) in &self.documents {
            if told.head > 0 {
                told.check(document, client).await;
            }
        }
    }
}

impl Told {
    async fn check(&self, document: &str, client: &Client) {
        let state = client.get(&format!("/docs/{document}/state")).await.expect_json(200);
        assert_eq!(state["epoch"].as_str(), self.epoch.as_deref(), "the epoch of {document}");
        let head = state["seq"].as_u64().expect("a sequence");
        assert!(head >= self.head, "{document} ends at {head}, and {} was told", self.head);

        let log = read_log(document, client).await;
        let oldest = *log.keys().next().expect("the log keeps its end");
        assert!(log.keys().copied().eq(oldest..=head), "the log of {document} is dense");
        let distinct: BTreeSet<&Vec<u8>> = log.values().collect();
        assert_eq!(distinct.len(), log.len(), "the log of {document} has nothing twice");
        for (seq, update) in self.logged.range(oldest..) {
            assert_eq!(log.get(seq), Some(update), "sequence {seq} of {document}");
        }

        let mut peer = Peer::from_update(&bytes_of(&state["update"]));
        let (text, state_vector) = (peer.text(), sorted(&peer.state_vector()));
        assert_eq!(client.text(document).await, text);
        assert_eq!(sorted(&bytes_of(&state["state_vector"])), state_vector);
        for update in self.logged.values().chain(&self.contained) {
            peer.apply(update);
        }
        assert_eq!(peer.text(), text, "{document} has everything that was told");
        assert_eq!(sorted(&peer.state_vector()), state_vector, "{document} has everything that was told");
    }
}

/// The log by sequence, from the oldest entry that is kept.
async fn read_log(document: &str, client: &Client) -> BTreeMap<u64, Vec<u8>> {
    let mut log = BTreeMap::new();
    let mut since = 0;
    loop {
        let answer = client.get(&format!("/docs/{document}/updates?since={since}")).await;
        if answer.status == 410 {
            let oldest = answer.expect_problem(410, "gone")["oldest"].as_u64().expect("a sequence");
            assert!(oldest > since + 1, "the log begins at {oldest}, and not after {since}");
            since = oldest - 1;
            continue;
        }
        let page = answer.expect_json(200);
        for entry in page["updates"].as_array().expect("a list of updates") {
            log.insert(entry["seq"].as_u64().expect("a sequence"), bytes_of(&entry["update"]));
        }
        match page["next"].as_u64() {
            Some(next) => since = next,
            None => return log,
        }
    }
}

/// A state vector, whatever order it was written in.
fn sorted(state_vector: &[u8]) -> BTreeMap<u64, u32> {
    use yrs::updates::decoder::Decode;
    let state_vector = yrs::StateVector::decode_v1(state_vector).expect("a state vector");
    state_vector.iter().map(|(client, clock)| (client.get(), *clock)).collect()
}
