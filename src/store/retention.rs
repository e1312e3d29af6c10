//! Which snapshots and how much of the log a compaction leaves: pure, and shared by the stores.

use crate::ids::Sequence;

/// How many snapshots of one document are kept: the base, the newest, and two between, so that any
/// kept sequence is rebuilt from a log of moderate length.
pub const SNAPSHOTS_MAX: usize = 4;

/// What one compaction does, besides adding its snapshot.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The log is trimmed up to and including this sequence. `None`: nothing of it goes.
    pub base: Option<Sequence>,
    /// Snapshots that go.
    pub dropped: Vec<Sequence>,
}

/// Plans the trimming of one document.
///
/// `snapshots`: those that read back, the new one included, ascending.
/// `pinned`: those among them that never go, since a version is there.
/// `first_kept`: the first sequence that retention wants to keep; everything before it may go.
///
/// The newest snapshot is never the base: were it damaged, there would be nothing to fall back to.
/// So the log is trimmed one compaction later than retention would allow.
pub fn plan(snapshots: &[Sequence], pinned: &[Sequence], first_kept: Sequence) -> Plan {
    let before_newest = &snapshots[..snapshots.len().saturating_sub(1)];
    let base = before_newest.iter().rev().find(|sequence| **sequence < first_kept).copied();
    let start = base.unwrap_or(Sequence::ZERO);
    let (mut dropped, mut kept): (Vec<_>, Vec<_>) = snapshots
        .iter()
        .copied()
        .filter(|sequence| !pinned.contains(sequence))
        .partition(|sequence| *sequence < start);
    while kept.len() > SNAPSHOTS_MAX {
        let thinned = kept.remove(least_missed(&kept, base.is_some() && kept.first() == base.as_ref()));
        dropped.push(thinned);
    }
    Plan { base, dropped }
}

/// The snapshot whose removal leaves the shortest stretch without one. Never the newest, nor the base.
fn least_missed(kept: &[Sequence], first_is_base: bool) -> usize {
    let stretch = |index: usize| {
        let before = if index == 0 { Sequence::ZERO } else { kept[index - 1] };
        kept[index + 1].since(before)
    };
    let candidates = usize::from(first_is_base)..kept.len() - 1;
    candidates.min_by_key(|index| stretch(*index)).expect("more than SNAPSHOTS_MAX snapshots are kept")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(numbers: &[u64]) -> Vec<Sequence> {
        numbers.iter().copied().map(Sequence::new).collect()
    }

    #[test]
    fn the_log_is_trimmed_up_to_the_latest_snapshot_that_retention_lets_go() {
        let plan = plan(&sequences(&[10, 20, 30]), &[], Sequence::new(25));
        assert_eq!(plan, Plan { base: Some(Sequence::new(20)), dropped: sequences(&[10]) });
    }

    #[test]
    fn the_newest_snapshot_is_never_the_base() {
        assert_eq!(plan(&sequences(&[10]), &[], Sequence::new(11)), Plan { base: None, dropped: vec![] });
        assert_eq!(plan(&sequences(&[10, 20]), &[], Sequence::new(21)).base, Some(Sequence::new(10)));
    }

    #[test]
    fn nothing_is_trimmed_while_retention_keeps_all() {
        assert_eq!(plan(&sequences(&[10, 20]), &[], Sequence::new(1)), Plan { base: None, dropped: vec![] });
    }

    #[test]
    fn a_pinned_snapshot_stays_and_counts_for_none() {
        let pinned = sequences(&[10, 12, 14, 16, 18, 30]);
        let plan = plan(&sequences(&[10, 12, 14, 15, 16, 18, 30, 40]), &pinned, Sequence::new(35));
        assert_eq!(plan, Plan { base: Some(Sequence::new(30)), dropped: sequences(&[15]) });
    }

    #[test]
    fn snapshots_stay_few_and_spread_over_the_log() {
        let mut kept = Vec::new();
        for number in 1..=1000 {
            kept.push(Sequence::new(number * 10));
            let plan = plan(&kept, &[], Sequence::new(1));
            kept.retain(|sequence| !plan.dropped.contains(sequence));
            assert!(kept.len() <= SNAPSHOTS_MAX);
        }
        assert_eq!(kept.last(), Some(&Sequence::new(10_000)));
        let longest = kept.windows(2).map(|pair| pair[1].since(pair[0])).max();
        assert!(longest <= Some(7_000), "kept {kept:?}");
    }
}
