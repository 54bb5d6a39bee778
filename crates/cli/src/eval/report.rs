//! Scores of one model, or of two side by side, as a table and as JSON.

use std::f64::consts::LN_2;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::items::{Task, What};
use super::measure::{Apart, Measured, TaskOutcome};
use super::results::{Answered, Choice, Likelihood, Outcome};
use crate::args::CompareArg;

/// A score.
#[derive(Clone, Debug, PartialEq)]
struct Score {
    /// What of the task: a kind of answers, or nothing.
    of: String,
    name: &'static str,
    value: f64,
    /// Standard error of a share.
    error: Option<f64>,
    form: Form,
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Number,
    Share,
    Count,
}

/// The scores of everything that was computed.
pub struct Report<'a> {
    tasks: &'a [Task],
    own: Option<&'a Measured>,
    other: Option<&'a Measured>,
    apart: Option<&'a Apart>,
}

impl<'a> Report<'a> {
    /// Of one model, or also of another one; `apart` is how far they are.
    pub fn new(
        tasks: &'a [Task],
        own: Option<&'a Measured>,
        other: Option<&'a Measured>,
        apart: Option<&'a Apart>,
    ) -> Report<'a> {
        Report { tasks, own, other, apart: apart.filter(|apart| !apart.kl.is_empty()) }
    }

    /// Outcomes of a task, of this model and of the other.
    fn sides(&self, task: usize) -> [Option<&'a TaskOutcome>; 2] {
        [self.own, self.other].map(|side| side.and_then(|side| side.tasks.get(task)))
    }

    /// Scores of a task: each with this model's value and the other's.
    fn scores(&self, task: usize) -> Vec<[Option<Score>; 2]> {
        let [own, other] = self.sides(task).map(|outcome| outcome.map(scores).unwrap_or_default());
        let same = |a: &Score, b: &Score| (&a.of, a.name) == (&b.of, b.name);
        let mut pairs: Vec<[Option<Score>; 2]> = own
            .iter()
            .map(|score| [Some(score.clone()), other.iter().find(|other| same(score, other)).cloned()])
            .collect();
        let lone = other.iter().filter(|score| !own.iter().any(|own| same(own, score)));
        pairs.extend(lone.map(|score| [None, Some(score.clone())]));
        pairs
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if self.other.is_some() {
            row(&mut text, "", &["this".to_owned(), "against".to_owned()]);
        }
        for (i, task) in self.tasks.iter().enumerate() {
            let sides = self.sides(i);
            if sides.iter().all(Option::is_none) {
                continue;
            }
            let _ = writeln!(text, "{}", heading(task, sides));
            let scores = self.scores(i);
            for pairs in scores.chunk_by(|a, b| of(a) == of(b)) {
                let all = |side: usize| {
                    let scores = pairs.iter().filter_map(|pair| pair[side].as_ref());
                    scores.map(|score| format!("{} {}", score.show(), score.name)).collect::<Vec<_>>().join(", ")
                };
                match of(&pairs[0]) {
                    // Of a kind of answers, one line says everything.
                    Some(kind) if !kind.is_empty() => row(&mut text, kind, &[all(0), all(1)]),
                    _ => pairs.iter().for_each(|pair| {
                        let name = pair.iter().flatten().next().map_or("", |score| score.name);
                        row(
                            &mut text,
                            name,
                            &pair.each_ref().map(|score| score.as_ref().map_or(String::new(), Score::show)),
                        );
                    }),
                }
            }
        }
        if let Some(apart) = self.apart {
            text += &describe_apart(&Distances::new(apart));
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let side = |side: Option<&Measured>| {
            side.map_or(Value::Null, |side| {
                json!({"model": side.dir.display().to_string(), "identity": side.identity, "finished": side.finished})
            })
        };
        let tasks = self.tasks.iter().enumerate().map(|(i, task)| {
            let scores = self.scores(i).into_iter().filter_map(|pair| {
                let score = pair.iter().flatten().next()?.clone();
                let value = |score: &Option<Score>| score.as_ref().map_or(Value::Null, Score::json);
                Some(json!({"of": score.of, "name": score.name, "this": value(&pair[0]), "against": value(&pair[1])}))
            });
            let outcomes = self.sides(i);
            let count = |side: Option<&TaskOutcome>| {
                side.map_or(
                    Value::Null,
                    |side| json!({"items": side.items, "done": side.outcomes.len(), "kept": side.kept}),
                )
            };
            json!({
                "file": task.file,
                "measures": kind(task),
                "window": outcomes.iter().flatten().map(|side| side.window).find(|&window| window > 0),
                "items": {"this": count(outcomes[0]), "against": count(outcomes[1])},
                "scores": scores.collect::<Vec<_>>(),
            })
        });
        let apart = self.apart.map(|apart| {
            let Distances { tokens, mean, p99, max, agree } = Distances::new(apart);
            json!({"tokens": tokens, "kl_mean": mean, "kl_p99": p99, "kl_max": max, "top1_agreement": agree})
        });
        Value::Object(Map::from_iter([
            ("this".to_owned(), side(self.own)),
            ("against".to_owned(), side(self.other)),
            ("tasks".to_owned(), tasks.collect()),
            ("divergence".to_owned(), apart.unwrap_or(Value::Null)),
        ]))
    }
}

/// What a score, of either model, is of.
fn of(pair: &[Option<Score>; 2]) -> Option<&str> {
    pair.iter().flatten().next().map(|score| score.of.as_str())
}

/// A line of the table, with a cell for each model.
fn row(text: &mut String, name: &str, [own, other]: &[String; 2]) {
    let line = format!("  {name:<24}{own:<64} {other}");
    let _ = writeln!(text, "{}", line.trim_end());
}

fn kind(task: &Task) -> &'static str {
    match task.what {
        What::Text(_) => "perplexity",
        What::Choices(_, CompareArg::Letters) => "choices by their letters",
        What::Choices(_, CompareArg::Texts) => "choices by their texts",
        What::Answers(..) => "answers",
    }
}

fn heading(task: &Task, sides: [Option<&TaskOutcome>; 2]) -> String {
    let mut text = format!("{}: {}", task.file, kind(task));
    if let Some(window) = sides.iter().flatten().map(|side| side.window).find(|&window| window > 0) {
        let _ = write!(text, " in windows of {window} tokens");
    }
    if let Some(side) = sides.iter().flatten().find(|side| side.outcomes.len() < side.items) {
        let _ = write!(text, ", stopped after {} of {} items", side.outcomes.len(), side.items);
    }
    text
}

/// The scores of a task.
fn scores(task: &TaskOutcome) -> Vec<Score> {
    let mut scores = Vec::new();
    let (mut likelihood, mut choices, mut answers) = (Likelihood::default(), Vec::new(), Vec::new());
    for outcome in &task.outcomes {
        match outcome {
            Outcome::Likelihood(one) => {
                likelihood.nats += one.nats;
                likelihood.tokens += one.tokens;
                likelihood.bytes += one.bytes;
            }
            Outcome::Choice(choice) => choices.push(choice),
            Outcome::Answer(answer) => answers.push(answer),
        }
    }
    score_choices(&choices, &mut scores);
    score_answers(&answers, &mut scores);
    if likelihood.tokens > 0 {
        let of = if task.window == 0 { "texts" } else { "" };
        let mut add = |name, value, form| scores.push(Score { of: of.to_owned(), name, value, error: None, form });
        add("perplexity", (likelihood.nats / likelihood.tokens as f64).exp(), Form::Number);
        add("bits per byte", likelihood.nats / LN_2 / likelihood.bytes.max(1) as f64, Form::Number);
        add("tokens scored", likelihood.tokens as f64, Form::Count);
    }
    scores
}

fn score_choices(choices: &[&Choice], scores: &mut Vec<Score>) {
    if choices.is_empty() {
        return;
    }
    scores.push(Score::count("", "questions", choices.len()));
    scores.push(Score::share("", "accuracy", choices.iter().map(|choice| choice.right)));
    scores.push(Score::share("", "accuracy by length", choices.iter().map(|choice| choice.right_by_length)));
}

/// For each kind of answers, and for all of them.
fn score_answers(answers: &[&Answered], scores: &mut Vec<Score>) {
    let mut kinds: Vec<&str> = Vec::new();
    for answer in answers {
        if !kinds.contains(&answer.kind.as_str()) {
            kinds.push(&answer.kind);
        }
    }
    for kind in &kinds {
        let of: Vec<&&Answered> = answers.iter().filter(|answer| answer.kind == *kind).collect();
        scores.push(Score::count(kind, "answers", of.len()));
        scores.push(Score::share(kind, "right", of.iter().map(|answer| answer.right)));
        let valid: Vec<bool> = of.iter().filter_map(|answer| answer.valid).collect();
        if !valid.is_empty() {
            scores.push(Score::share(kind, "valid", valid.into_iter()));
        }
    }
    if !kinds.is_empty() {
        scores.push(Score::count("all", "answers", answers.len()));
        scores.push(Score::share("all", "right", answers.iter().map(|answer| answer.right)));
        scores.push(Score::count("all", "without an end", answers.iter().filter(|answer| !answer.ended).count()));
    }
}

impl Score {
    fn count(of: &str, name: &'static str, count: usize) -> Score {
        Score { of: of.to_owned(), name, value: count as f64, error: None, form: Form::Count }
    }

    /// A share, with the standard error of the mean of zeros and ones.
    fn share(of: &str, name: &'static str, right: impl Iterator<Item = bool>) -> Score {
        let (mut n, mut hits) = (0usize, 0usize);
        right.for_each(|right| (n, hits) = (n + 1, hits + usize::from(right)));
        let share = hits as f64 / n.max(1) as f64;
        let error = (n > 1).then(|| (share * (1.0 - share) / (n - 1) as f64).sqrt());
        Score { of: of.to_owned(), name, value: share, error, form: Form::Share }
    }

    fn show(&self) -> String {
        match self.form {
            Form::Count => format!("{}", self.value),
            Form::Number => format!("{:.4}", self.value),
            Form::Share => {
                let error = self.error.map_or(String::new(), |error| format!(" ± {:.1}", 100.0 * error));
                format!("{:.1} %{error}", 100.0 * self.value)
            }
        }
    }

    fn json(&self) -> Value {
        match self.error {
            None => json!({"value": self.value}),
            Some(error) => json!({"value": self.value, "standard_error": error}),
        }
    }
}

/// How far two models are apart, in numbers.
struct Distances {
    tokens: usize,
    mean: f64,
    p99: f64,
    max: f64,
    agree: f64,
}

impl Distances {
    /// Of at least one token.
    fn new(apart: &Apart) -> Distances {
        let mut kl = apart.kl.clone();
        kl.sort_by(f32::total_cmp);
        let tokens = kl.len();
        let at = |share: f64| f64::from(kl[((tokens - 1) as f64 * share).round() as usize]);
        Distances {
            tokens,
            mean: kl.iter().map(|&kl| f64::from(kl)).sum::<f64>() / tokens as f64,
            p99: at(0.99),
            max: at(1.0),
            agree: apart.agree as f64 / tokens as f64,
        }
    }
}

fn describe_apart(Distances { tokens, mean, p99, max, agree }: &Distances) -> String {
    let mut text = format!("This model apart from the other, over {tokens} tokens: KL(against ‖ this) in nats\n");
    for (name, value) in [
        ("mean KL", format!("{mean:.3e}")),
        ("99 % of tokens below", format!("{p99:.3e}")),
        ("largest", format!("{max:.3e}")),
        ("same token most likely", format!("{:.2} %", 100.0 * agree)),
    ] {
        row(&mut text, name, &[value, String::new()]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_a_standard_error() {
        let share = Score::share("", "accuracy", [true, true, true, false].into_iter());
        assert_eq!(share.value, 0.75);
        // The standard deviation of 1, 1, 1, 0 is 0.5, and there are four.
        assert!(share.error.is_some_and(|error| (error - 0.25).abs() < 1e-12));
        assert_eq!(share.show(), "75.0 % ± 25.0");
        assert_eq!(Score::share("", "accuracy", [true].into_iter()).error, None);
    }

    #[test]
    fn distances_are_mean_quantile_and_maximum() {
        let mut apart = Apart::default();
        (apart.agree, apart.kl) = (150, (0..201).rev().map(|i| i as f32).collect());
        let distances = Distances::new(&apart);
        assert_eq!((distances.mean, distances.p99, distances.max), (100.0, 198.0, 200.0));
        assert_eq!(distances.agree, 150.0 / 201.0);
    }
}
