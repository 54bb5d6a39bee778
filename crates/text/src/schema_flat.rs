//! The two large parts of `tokenizer.json`, the vocabulary and the merges, read into flat buffers: a quarter of a
//! million small strings would take several times the memory and time.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Strings laid end to end.
#[derive(Default)]
pub(crate) struct Flat {
    text: String,
    ends: Vec<usize>,
}

impl Flat {
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, &end)| self.text.get(start..end))
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Takes one JSON string into a [`Flat`].
struct Into<'a>(&'a mut Flat);

impl<'de> DeserializeSeed<'de> for Into<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Into<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push(text);
        Ok(())
    }
}

/// `model.vocab`: tokens and their ids, in the order of the file.
#[derive(Default)]
pub(crate) struct Entries {
    pub tokens: Flat,
    pub ids: Vec<u32>,
}

impl Entries {
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.tokens.iter().zip(self.ids.iter().copied())
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while map.next_key_seed(Into(&mut entries.tokens))?.is_some() {
                    entries.ids.push(map.next_value()?);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// `model.merges`: the left and right parts, each rule written `"a b"` or `["a", "b"]`.
#[derive(Default)]
pub(crate) struct Merges {
    parts: Flat,
}

impl Merges {
    pub fn len(&self) -> usize {
        self.parts.len() / 2
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parts.iter().step_by(2).zip(self.parts.iter().skip(1).step_by(2))
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merges, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while list.next_element_seed(Rule(&mut merges.parts))?.is_some() {}
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Takes one rule into a [`Flat`], as two strings.
struct Rule<'a>(&'a mut Flat);

impl<'de> DeserializeSeed<'de> for Rule<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rule<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a merge: \"a b\" or [\"a\", \"b\"]")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match text.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => {
                self.0.push(left);
                self.0.push(right);
                Ok(())
            }
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<(), A::Error> {
        let Rule(flat) = self;
        for side in 0..2 {
            if pair.next_element_seed(Into(&mut *flat))?.is_none() {
                return Err(A::Error::invalid_length(side, &"the two parts of a merge"));
            }
        }
        match pair.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_length(3, &"the two parts of a merge")),
        }
    }
}
