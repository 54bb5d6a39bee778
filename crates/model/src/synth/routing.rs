//! Routing like a trained model's. Independent random weights choose experts evenly and anew for every token; a trained
//! router favours some experts, keeps to a set while the text keeps to its subject, and can be guessed a layer ahead.
//!
//! Embeddings are a direction common to all tokens, one that the tokens of a topic share, and noise. The head makes a
//! token of the same topic likely, so that generated text keeps to a topic for some tens of tokens. A router's row
//! answers to the common direction (the same experts always), to topics (the same while the topic lasts), and to the
//! rest. What layers add is small against the residual stream, so that the next router sees much the same.

use std::sync::Arc;

use super::values::{Random, key};
use crate::config::ModelError;
use crate::weights::{Declared, DeclaredKind};

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Share of the variance of a router's logits that is the same for every token.
    pub skew: f64,
    /// Share that the topic decides. What is left is the token's own.
    pub locality: f64,
    /// What attention, and what the experts, add to the residual stream, against the embedding (root mean squares).
    pub residual: f64,
}

impl Default for Routing {
    fn default() -> Self {
        Routing { skew: 0.1, locality: 0.35, residual: 0.25 }
    }
}

impl Routing {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// Names the value.
    pub fn check(&self) -> Result<(), String> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        if !share(self.skew) || !share(self.locality) || self.skew + self.locality > 1.0 {
            Err(format!(
                "--skew {} and --locality {} are shares: at least 0, and at most 1 together",
                self.skew, self.locality
            ))
        } else if !(0.0..=100.0).contains(&self.residual) {
            Err(format!("--residual {} is not between 0 and 100", self.residual))
        } else {
            Ok(())
        }
    }
}

/// Shares of an embedding's power: the common direction, the topic's, the token's own noise.
const COMMON: f64 = 0.1;
const TOPIC: f64 = 0.25;
const NOISE: f64 = 1.0 - COMMON - TOPIC;
/// Hidden dimensions for each topic: directions of topics must stay far apart.
const HIDDEN_PER_TOPIC: usize = 32;
const TOPICS_MAX: usize = 64;
/// Tokens that generated text keeps to a topic in the mean, at temperature 1.
const TOPIC_TOKENS: f64 = 24.0;
/// Deviation of a router's logits.
const ROUTER_DEVIATION: f64 = 2.0;
/// Deviation of the logits of tokens of one topic.
const HEAD_DEVIATION: f64 = 2.0;

/// How a declared tensor is filled.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Independent values; of experts, those of down.
    Random { mean: f32, deviation: f32 },
    /// Rows with structure.
    Rows(Arc<Rows>),
}

/// Rows made of shared directions and noise.
#[derive(Debug)]
pub(super) struct Rows {
    directions: Arc<Directions>,
    kind: RowsKind,
    /// Deviation of each element's noise.
    pub noise: f32,
}

#[derive(Debug)]
enum RowsKind {
    /// A row a token: `common · c + topic · t`, t being its topic's direction.
    Tokens { common: f32, topic: f32 },
    /// A row an expert: `skew · u · c + Σ locality · v · t` over all topics, u and v being its own normal numbers.
    Experts { skew: f32, locality: f32, random: Random },
}

/// The common direction, then the topics': elements 1 and -1.
#[derive(Debug)]
struct Directions {
    all: Vec<Vec<f32>>,
}

impl Directions {
    fn new(hidden: usize, seed: u64) -> Directions {
        let topics = (hidden / HIDDEN_PER_TOPIC).clamp(2, TOPICS_MAX);
        let direction = |i: usize| {
            let random = Random(key(seed, &format!("direction {i}")));
            (0..hidden as u64).map(|at| if random.at(at) >> 63 == 0 { 1.0 } else { -1.0 }).collect()
        };
        Directions { all: (0..=topics).map(direction).collect() }
    }

    fn topics(&self) -> usize {
        self.all.len() - 1
    }
}

impl Rows {
    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.directions.all[0].len()
    }

    /// A row without its noise.
    pub fn base(&self, row: usize, base: &mut [f32]) {
        base.fill(0.0);
        let mut add = |factor: f32, direction: &[f32]| {
            base.iter_mut().zip(direction).for_each(|(base, d)| *base += factor * d);
        };
        let directions = &self.directions.all;
        match &self.kind {
            RowsKind::Tokens { common, topic } => {
                add(*common, &directions[0]);
                add(*topic, &directions[1 + row % self.directions.topics()]);
            }
            RowsKind::Experts { skew, locality, random } => {
                for (i, direction) in directions.iter().enumerate() {
                    let factor = if i == 0 { *skew } else { *locality };
                    add(factor * normal(random.at((row * directions.len() + i) as u64)), direction);
                }
            }
        }
    }
}

/// A normal number from random bits: the sum of four even ones.
fn normal(bits: u64) -> f32 {
    let sum: u32 = (0..4).map(|i| (bits >> (16 * i)) as u32 & 0xffff).sum();
    (sum as f32 / 65535.0 - 2.0) * 3f32.sqrt()
}

/// Decides how every declared tensor is filled.
pub(super) struct Roles {
    routing: Routing,
    directions: Arc<Directions>,
    seed: u64,
    layers: usize,
    /// Embedding and head are one tensor.
    tied: bool,
    /// Beside the routed experts there is a shared one.
    shared: bool,
}

impl Roles {
    pub fn new(
        declared: &[Declared],
        layers: usize,
        hidden: usize,
        routing: Routing,
        seed: u64,
    ) -> Result<Roles, ModelError> {
        routing.check().map_err(ModelError::Config)?;
        let has = |name: &str| declared.iter().any(|tensor| tensor.name.contains(name));
        Ok(Roles {
            routing,
            directions: Arc::new(Directions::new(hidden, seed)),
            seed,
            layers,
            tied: !has("lm_head"),
            shared: has("shared_expert"),
        })
    }

    pub fn of(&self, declared: &Declared) -> Role {
        let random = |mean: f64, deviation: f64| Role::Random { mean: mean as f32, deviation: deviation as f32 };
        let Declared { name, shape, kind } = declared;
        let fan_in = match kind {
            DeclaredKind::Experts => shape[2],
            _ => shape.last().copied().unwrap_or(1),
        } as f64;
        let ends = |end: &str| name.ends_with(end);
        if ends("embed_tokens.weight") {
            self.embedding()
        } else if ends("lm_head.weight") {
            self.head()
        } else if ends("mlp.gate.weight") {
            self.router(name)
        } else if let Some(gain) = self.output_gain(name, *kind) {
            random(0.0, gain * self.routing.residual * self.scale() / fan_in.sqrt())
        } else if ends("A_log") {
            // Half of the heads remember some tens of tokens, as trained ones do, a few hundreds of them.
            random(-1.5, 1.5)
        } else if ends("dt_bias") {
            random(-2.0, 1.0)
        } else {
            random(0.0, 1.0 / fan_in.sqrt())
        }
    }

    /// For a matrix that writes to the residual stream: what makes of its inputs, as they are in the mean, an output of
    /// root mean square 1. Measured on made models: values averaged by attention 0.5, gated ones 0.3, the output of
    /// a Gated DeltaNet 0.6, an expert's inner values 0.6 and, by the router's weights, half of that.
    fn output_gain(&self, name: &str, kind: DeclaredKind) -> Option<f64> {
        let beside_shared = if self.shared { 0.5f64.sqrt() } else { 1.0 };
        match kind {
            DeclaredKind::Experts => Some(beside_shared / 0.3),
            _ if name.ends_with("o_proj.weight") => Some(1.0 / if self.shared { 0.3 } else { 0.5 }),
            _ if name.ends_with("out_proj.weight") => Some(1.0 / 0.6),
            _ if name.ends_with("shared_expert.down_proj.weight") => Some(beside_shared / 0.3),
            _ if name.ends_with("down_proj.weight") => Some(1.0 / 0.6),
            _ => None,
        }
    }

    /// Power of the residual stream, against the embedding's, after so many halves of layers.
    fn power(&self, halves: usize) -> f64 {
        1.0 + halves as f64 * self.routing.residual * self.routing.residual
    }

    fn hidden(&self) -> f64 {
        self.directions.all[0].len() as f64
    }

    /// Logit by which a token of the present topic is ahead of others.
    fn head_start(&self) -> f64 {
        ((TOPIC_TOKENS - 1.0) * (self.directions.topics() - 1) as f64).ln()
    }

    /// Size of the embedding. Norms hide it, but for a head that is the same tensor.
    fn scale(&self) -> f64 {
        if self.tied { self.head_start() * self.power(2 * self.layers).sqrt() / (TOPIC * self.hidden()) } else { 1.0 }
    }

    fn rows(&self, kind: RowsKind, noise: f64) -> Role {
        Role::Rows(Arc::new(Rows { directions: self.directions.clone(), kind, noise: noise as f32 }))
    }

    fn embedding(&self) -> Role {
        let part = |share: f64| self.scale() * share.sqrt();
        self.rows(RowsKind::Tokens { common: part(COMMON) as f32, topic: part(TOPIC) as f32 }, part(NOISE))
    }

    fn head(&self) -> Role {
        let seen = TOPIC.sqrt() * self.hidden() / self.power(2 * self.layers).sqrt();
        let topic = (self.head_start() / seen) as f32;
        self.rows(RowsKind::Tokens { common: 0.0, topic }, HEAD_DEVIATION / self.hidden().sqrt())
    }

    fn router(&self, name: &str) -> Role {
        let number = |part: &str| part.parse::<usize>().ok();
        let layer = name.split('.').find_map(number).unwrap_or(0);
        let Routing { skew, locality, .. } = self.routing;
        let (hidden, topics) = (self.hidden(), self.directions.topics() as f64);
        let stream = self.power(2 * layer + 1);
        // Factors that give logits of these variances from what the norm leaves of the two directions.
        let common = (skew * stream / COMMON).sqrt() / hidden.sqrt();
        let topic = (locality * stream / TOPIC).sqrt() / hidden.sqrt();
        // All of these answer to the rest of the stream too; noise makes up what is wanting.
        let noise = (1.0 - skew - locality - common * common - topics * topic * topic).max(0.0).sqrt();
        let part = |factor: f64| ROUTER_DEVIATION * factor / hidden.sqrt();
        let kind = RowsKind::Experts {
            skew: part(common) as f32,
            locality: part(topic) as f32,
            random: Random(key(self.seed, &format!("{name} tastes"))),
        };
        self.rows(kind, part(noise))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A router's rows.
    pub fn rows(_experts: usize, hidden: usize) -> Rows {
        let directions = Arc::new(Directions::new(hidden, 3));
        Rows { directions, kind: RowsKind::Experts { skew: 0.3, locality: 0.2, random: Random(9) }, noise: 0.5 }
    }

    #[test]
    fn shares_beyond_one_are_refused() {
        assert!(Routing::default().check().is_ok());
        for (skew, locality, residual) in
            [(0.6, 0.5, 0.2), (-0.1, 0.2, 0.2), (0.1, f64::NAN, 0.2), (0.1, 0.2, -1.0), (0.1, 0.2, f64::NAN)]
        {
            assert!(Routing { skew, locality, residual }.check().is_err(), "{skew} {locality} {residual}");
        }
    }

    #[test]
    fn normal_numbers_have_deviation_one() {
        let random = Random(4);
        let squares: f32 = (0..10_000).map(|i| normal(random.at(i)).powi(2)).sum();
        assert!((squares / 10_000.0 - 1.0).abs() < 0.05, "{squares}");
    }
}
