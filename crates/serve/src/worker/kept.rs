//! States that are kept for requests to come: found by the tokens that they hold. A state of keys and values serves any
//! prompt that begins alike; a recurrent one only a prompt that begins with all of its tokens, which is why it is saved
//! at the borders of messages. What is in memory is copied to a drive, where a folder for it is given, and found there when
//! memory has forgotten it, and after a restart.

use outpour_engine::{Engine, Saving, SequenceId, Snapshots};

use super::job::Job;

/// States kept at most.
const KEPT_MAX: usize = 24;

/// States on a drive, and where is said what goes wrong with them.
pub struct States {
    /// Those on the drive.
    pub snapshots: Snapshots,
    /// Takes a line for people.
    pub tell: fn(&str),
}

/// States that are kept, the least recently used first.
pub(crate) struct Kept {
    states: Vec<State>,
    drive: Option<States>,
}

struct State {
    sequence: SequenceId,
    tokens: Vec<u32>,
    /// On its way to the drive.
    saving: Option<Saving>,
}

impl State {
    /// How many of `tokens` need not be computed: the last one always is, as its logits are wanted.
    fn serves(&self, tokens: &[u32], goes_back: bool) -> usize {
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let shared = shared.min(tokens.len().saturating_sub(1));
        if goes_back || shared == self.tokens.len() { shared } else { 0 }
    }
}

impl Kept {
    pub(super) fn new(drive: Option<States>) -> Kept {
        Kept { states: Vec::new(), drive }
    }

    /// Forgets what is in memory: the engine is gone.
    pub(super) fn forget_memory(&mut self) {
        self.states.clear();
    }

    /// Bytes on the drive.
    pub(super) fn drive_bytes(&self) -> u64 {
        self.drive.as_ref().map_or(0, |drive| drive.snapshots.bytes())
    }

    /// Writes some of a state to the drive. `false` where all are there.
    pub(super) fn write_next(&mut self, engine: &Engine) -> bool {
        let Some(States { snapshots, tell }) = &mut self.drive else { return false };
        let pending = self.states.iter_mut().find(|state| state.saving.is_some());
        let Some(State { sequence, saving: saving @ Some(_), .. }) = pending else { return false };
        saving.take_if(|saving| !snapshots.write_next(engine, *sequence, saving));
        snapshots.take_problems().iter().for_each(|problem| tell(problem));
        true
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// A sequence that holds as much of `tokens` as is found, and how many that are. Where memory is short it is an empty one.
    pub(super) fn resume(&mut self, engine: &mut Engine, tokens: &[u32]) -> (SequenceId, usize) {
        let goes_back = engine.goes_back();
        let served = |state: &State| state.serves(tokens, goes_back);
        let best = (0..self.states.len()).max_by_key(|&i| served(&self.states[i]));
        let in_memory = best.map_or(0, |i| served(&self.states[i]));
        if let Some(States { snapshots, tell }) = &mut self.drive {
            let restored = snapshots.restore(engine, tokens, in_memory);
            snapshots.take_problems().iter().for_each(|problem| tell(problem));
            if let Some(restored) = restored {
                return restored;
            }
        }
        if let Some(best) = best.filter(|&i| served(&self.states[i]) > 0) {
            let state = self.states.remove(best);
            let (sequence, found) = (state.sequence, served(&state));
            self.states.push(state);
            // What serves this request is the last that is forgotten.
            if let Some(fork) = self.fork(engine, sequence) {
                return (fork, engine.truncate(fork, found));
            }
        }
        (engine.open_sequence(), 0)
    }

    /// Keeps a sequence that holds these tokens.
    pub(super) fn keep(&mut self, engine: &mut Engine, sequence: SequenceId, tokens: &[u32]) {
        if tokens.is_empty() {
            engine.close_sequence(sequence);
            return;
        }
        let goes_back = engine.goes_back();
        let replaced = |old: &mut State| old.tokens == tokens || (goes_back && tokens.starts_with(&old.tokens));
        for old in self.states.extract_if(.., replaced) {
            engine.close_sequence(old.sequence);
        }
        let saving = self.drive.as_ref().map(|drive| drive.snapshots.begin(engine, tokens));
        self.states.push(State { sequence, tokens: tokens.to_vec(), saving });
        while self.states.len() > KEPT_MAX {
            self.drop_oldest(engine);
        }
    }

    /// Keeps a copy of a sequence that goes on, where there is memory for it.
    pub(super) fn snapshot(&mut self, engine: &mut Engine, sequence: SequenceId, tokens: &[u32]) {
        if self.states.iter().any(|state| state.tokens == tokens) {
            return;
        }
        if let Some(fork) = self.fork(engine, sequence) {
            // Its logits are not wanted.
            engine.truncate(fork, tokens.len());
            self.keep(engine, fork, tokens);
        }
    }

    /// A copy of a sequence. Where memory is short, other states give theirs back, the least recently used first.
    fn fork(&mut self, engine: &mut Engine, sequence: SequenceId) -> Option<SequenceId> {
        loop {
            if let Ok(fork) = engine.fork(sequence) {
                return Some(fork);
            }
            if self.states.first().is_none_or(|oldest| oldest.sequence == sequence) {
                return None;
            }
            self.drop_oldest(engine);
        }
    }

    /// Gives the memory of the least recently used state back; `false` where there is none.
    pub(super) fn drop_oldest(&mut self, engine: &mut Engine) -> bool {
        if self.states.is_empty() {
            return false;
        }
        engine.close_sequence(self.states.remove(0).sequence);
        true
    }

    /// Gives memory back until what is kept takes no more than `bytes` beside the request that comes; what serves it goes last,
    /// and takes no memory where both hold the same tokens.
    pub(super) fn shrink(&mut self, engine: &mut Engine, mut bytes: usize, coming: &Job) {
        let goes_back = engine.goes_back();
        let size = |engine: &Engine, state: &State| engine.state_bytes(state.tokens.len());
        let mut total: usize = self.states.iter().map(|state| size(engine, state)).sum();
        let serving = (0..self.states.len()).max_by_key(|&i| self.states[i].serves(&coming.tokens, goes_back));
        if let Some(serving) = serving {
            let state = self.states.remove(serving);
            // What is recurrent is copied.
            let shared = engine.state_bytes(state.serves(&coming.tokens, goes_back));
            bytes += shared.saturating_sub(engine.state_bytes(0));
            self.states.push(state);
        }
        while total > bytes && !self.states.is_empty() {
            total -= size(engine, &self.states[0]);
            self.drop_oldest(engine);
        }
    }
}
