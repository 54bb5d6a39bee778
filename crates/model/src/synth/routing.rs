//! Routing like a trained model's. Independent random weights choose experts evenly and anew for every token; a trained
//! router favours some experts, keeps to a set while the text keeps to its subject, and can be guessed a layer ahead.
//!
//! Embeddings are made of directions: one common to all tokens, one for each topic, which the topic's tokens share, and
//! features, which every token mixes anew; and of noise. The head makes a token of the same topic likely, so that
//! generated text keeps to a topic for some tens of tokens. A router's row answers to the common direction (the same
//! experts always), to topics (the same while the topic lasts), to features (the token's own) and, being random
//! otherwise, to all of the stream. What attention adds is what the layer before cannot know of the next router's choice.

use std::sync::Arc;

use super::values::{Random, key};
use crate::config::ModelError;
use crate::weights::{Declared, DeclaredKind};

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Share of the variance of a router's logits that is the same for every token. With none there is some skew yet: what
    /// layers add is much the same for all tokens.
    pub skew: f64,
    /// Share that the topic decides. Of what is left, features of the token decide most, and all of the stream the rest.
    pub locality: f64,
    /// What attention adds to the residual stream, against the stream (root mean squares). Experts add a third of it.
    pub residual: f64,
}

impl Default for Routing {
    fn default() -> Self {
        Routing { skew: 0.0, locality: 0.15, residual: 0.3 }
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

/// Shares of an embedding's power: the common direction, the topic's, the features, noise.
const COMMON: f64 = 0.05;
const TOPIC: f64 = 0.35;
const FEATURES: f64 = 0.5;
const NOISE: f64 = 1.0 - COMMON - TOPIC - FEATURES;
/// Hidden dimensions for each topic and for each feature: directions must stay far apart.
const HIDDEN_PER_TOPIC: usize = 64;
const TOPICS_MAX: usize = 64;
/// Share of the rest of a router's logits, beside skew and locality, that features decide.
const OWN: f64 = 0.6;
/// What experts add to the stream, against what attention adds.
const EXPERTS_SHARE: f64 = 1.0 / 3.0;
/// The stream's power grows no further than this, or the embedding's directions would be lost in it.
const POWER_MAX: f64 = 8.0;
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
    /// A row a token: `common · c + topic · t + Σ features · z · f` over all features, t being its topic's direction and z its
    /// own normal numbers.
    Tokens { common: f32, topic: f32, features: f32, random: Random },
    /// A row an expert: `skew · z · c + Σ locality · z · t + Σ own · z · f`, over all topics and features.
    Experts { skew: f32, locality: f32, own: f32, random: Random },
}

/// The common direction, then the topics', then as many features': elements 1 and -1.
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
        Directions { all: (0..=2 * topics).map(direction).collect() }
    }

    fn topics(&self) -> usize {
        self.all.len() / 2
    }
}

impl Rows {
    /// Elements of a row.
    pub fn cols(&self) -> usize {
        self.directions.all[0].len()
    }

    /// Deviation of the elements.
    pub fn deviation(&self) -> f32 {
        let n = self.directions.topics() as f32;
        let [common, topics, features] = match &self.kind {
            RowsKind::Tokens { common, topic, features, .. } => [*common, *topic, n.sqrt() * features],
            RowsKind::Experts { skew, locality, own, .. } => [*skew, n.sqrt() * locality, n.sqrt() * own],
        };
        [common, topics, features, self.noise].iter().map(|part| part * part).sum::<f32>().sqrt()
    }

    /// A row without its noise.
    pub fn base(&self, row: usize, base: &mut [f32]) {
        base.fill(0.0);
        let mut add = |factor: f32, direction: &[f32]| {
            base.iter_mut().zip(direction).for_each(|(base, d)| *base += factor * d);
        };
        let (directions, topics) = (&self.directions.all, self.directions.topics());
        let numbers = |random: &Random, i: usize| normal(random.at((row * directions.len() + i) as u64));
        match &self.kind {
            RowsKind::Tokens { common, topic, features, random } => {
                add(*common, &directions[0]);
                add(*topic, &directions[1 + row % topics]);
                if *features > 0.0 {
                    let all = directions.iter().enumerate().skip(1 + topics);
                    all.for_each(|(i, direction)| add(features * numbers(random, i), direction));
                }
            }
            RowsKind::Experts { skew, locality, own, random } => {
                for (i, direction) in directions.iter().enumerate() {
                    let factor = match i {
                        0 => skew,
                        i if i <= topics => locality,
                        _ => own,
                    };
                    add(factor * numbers(random, i), direction);
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
        // Where there are many layers, each adds less.
        let growth = |residual: f64| (1.0 + residual * residual) * (1.0 + (residual * EXPERTS_SHARE).powi(2));
        let mut routing = routing;
        while growth(routing.residual).powi(layers as i32) > POWER_MAX {
            routing.residual *= 0.99;
        }
        let shared =
            declared.iter().any(|tensor| tensor.name.contains("shared_expert") || tensor.name.contains("shared_mlp"));
        Ok(Roles {
            routing,
            directions: Arc::new(Directions::new(hidden, seed)),
            seed,
            layers,
            tied: !declared.iter().any(|tensor| is_head(&tensor.name)),
            shared,
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
        if is_embedding(name) {
            self.embedding()
        } else if is_head(name) {
            self.head()
        } else if is_router(name) {
            self.router(name)
        } else if let Some(gain) = self.output_gain(name, *kind) {
            let stream = self.scale() * self.power(layer_of(name)).sqrt();
            random(0.0, gain * self.routing.residual * stream / fan_in.sqrt())
        } else if ends(".D") || ends("_scale") {
            random(1.0, 0.3)
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
    /// root mean square 1. Measured on made models: values mixed by attention 0.7, gated ones 0.4, the output of
    /// a Gated DeltaNet 0.6, an expert's inner values 0.6 and, by the router's weights, half of that.
    fn output_gain(&self, name: &str, kind: DeclaredKind) -> Option<f64> {
        let experts = EXPERTS_SHARE * if self.shared { 0.5f64.sqrt() } else { 1.0 };
        match kind {
            DeclaredKind::Experts => Some(experts / 0.3),
            _ if ["o_proj.weight", "attention.dense.weight", "wo_b.weight", "attention.wo.weight"]
                .iter()
                .any(|end| name.ends_with(end)) =>
            {
                Some(1.0 / if self.shared { 0.4 } else { 0.7 })
            }
            _ if name.ends_with("out_proj.weight") => Some(1.0 / 0.6),
            _ if name.ends_with("shared_expert.down_proj.weight")
                || name.ends_with("shared_experts.down_proj.weight")
                || name.ends_with("shared_experts.w2.weight")
                || name.ends_with("shared_mlp.output_linear.weight") =>
            {
                Some(experts / 0.3)
            }
            _ if name.ends_with("down_proj.weight") || name.ends_with("feed_forward.w2.weight") => {
                Some(EXPERTS_SHARE / 0.6)
            }
            _ => None,
        }
    }

    /// Power of the residual stream, against the embedding's, as it comes to a layer.
    fn power(&self, layer: usize) -> f64 {
        let attention = self.routing.residual * self.routing.residual;
        ((1.0 + attention) * (1.0 + attention * EXPERTS_SHARE * EXPERTS_SHARE)).powi(layer as i32)
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
        if self.tied { self.head_start() * self.power(self.layers).sqrt() / (TOPIC * self.hidden()) } else { 1.0 }
    }

    fn rows(&self, kind: RowsKind, noise: f64) -> Role {
        Role::Rows(Arc::new(Rows { directions: self.directions.clone(), kind, noise: noise as f32 }))
    }

    fn embedding(&self) -> Role {
        let part = |share: f64| self.scale() * share.sqrt();
        let features = part(FEATURES / self.directions.topics() as f64) as f32;
        let random = Random(key(self.seed, "features of tokens"));
        let kind = RowsKind::Tokens { common: part(COMMON) as f32, topic: part(TOPIC) as f32, features, random };
        self.rows(kind, part(NOISE))
    }

    fn head(&self) -> Role {
        let seen = TOPIC.sqrt() * self.hidden() / self.power(self.layers).sqrt();
        let topic = (self.head_start() / seen) as f32;
        let kind = RowsKind::Tokens { common: 0.0, topic, features: 0.0, random: Random(0) };
        self.rows(kind, HEAD_DEVIATION / self.hidden().sqrt())
    }

    fn router(&self, name: &str) -> Role {
        let Routing { skew, locality, .. } = self.routing;
        let (hidden, topics) = (self.hidden(), self.directions.topics() as f64);
        let stream = self.power(layer_of(name)) * (1.0 + self.routing.residual * self.routing.residual);
        let own = OWN * (1.0 - skew - locality);
        // Factors that give logits of these variances from what the norm leaves of the directions.
        let factor = |share: f64, of: f64| (share * stream / of / hidden).sqrt();
        let [common, topic, feature] =
            [(skew, COMMON), (locality, TOPIC), (own, FEATURES)].map(|(s, of)| factor(s, of));
        // All of these answer to the rest of the stream too; noise makes up what is wanting.
        let answered = common * common + topics * (topic * topic + feature * feature);
        let noise = (1.0 - skew - locality - own - answered).max(0.0).sqrt();
        let part = |factor: f64| ROUTER_DEVIATION * factor / hidden.sqrt();
        let kind = RowsKind::Experts {
            skew: part(common) as f32,
            locality: part(topic) as f32,
            own: part(feature) as f32,
            random: Random(key(self.seed, &format!("{name} tastes"))),
        };
        self.rows(kind, part(noise))
    }
}

/// Mean of a norm's weights. Those of queries and keys make attention look at a few tokens, as a trained one does: the
/// mean over all of the past, which weights of 1 come near to, would be the same for every token.
pub(super) fn norm_mean(name: &str) -> f32 {
    if name.ends_with("q_norm.weight") || name.ends_with("k_norm.weight") { 1.7 } else { 1.0 }
}

/// Whether a matrix is the embedding.
fn is_embedding(name: &str) -> bool {
    let ends = ["embed_tokens.weight", "backbone.embeddings.weight", "word_embeddings.weight"];
    ["embed.weight", "tok_embeddings.weight"].contains(&name) || ends.iter().any(|end| name.ends_with(end))
}

/// Whether a matrix is the head.
fn is_head(name: &str) -> bool {
    ["head.weight", "output.weight"].contains(&name) || name.ends_with("lm_head.weight")
}

/// Whether a matrix chooses experts.
pub(super) fn is_router(name: &str) -> bool {
    [".gate.weight", ".router.weight", ".router.layer.weight", ".router.classifier.weight"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The layer that a tensor is of.
fn layer_of(name: &str) -> usize {
    name.split('.').find_map(|part| part.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A router's rows.
    pub fn rows(_experts: usize, hidden: usize) -> Rows {
        let directions = Arc::new(Directions::new(hidden, 3));
        Rows {
            directions,
            kind: RowsKind::Experts { skew: 0.3, locality: 0.2, own: 0.1, random: Random(9) },
            noise: 0.5,
        }
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
