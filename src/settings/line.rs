//! The line of a key in a YAML document. `serde_yaml::Value` does not keep positions, but its errors do.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::cell::Cell;
use std::fmt;

/// Returns the number of the line, from 1, in which the key at `path` stands; `None` if there is no such key.
pub(super) fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let found = Cell::new(false);
    let search = Search { path, found: &found };
    let error = search.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    found.get().then(|| error.location().map(|location| location.line()))?
}

/// Walks down to the key at `path` and fails there, so that the error has the position of the key.
#[derive(Clone, Copy)]
struct Search<'a> {
    path: &'a [String],
    found: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(is_next) = map.next_key_seed(Key(self))? {
            match self.path.get(1..) {
                Some(path) if is_next => map.next_value_seed(Search { path, ..self })?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Compares a key with the first one of the path.
struct Key<'a>(Search<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let Search { path, found } = self.0;
        let is_next = path.first().is_some_and(|wanted| wanted == key);
        if is_next && path.len() == 1 {
            found.set(true);
            return Err(E::custom("the key is here"));
        }
        Ok(is_next)
    }
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn finds_the_line_of_a_key() {
        let text = "# a comment\nkeep: {last: 7}\ndestinations:\n  keep:\n    directory: /keep\n  b: {keep: {\n    last: 7}}\n";
        let line =
            |path: &[&str]| line_of(text, &path.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        assert_eq!(line(&["keep"]), Some(2));
        assert_eq!(line(&["destinations", "keep"]), Some(4));
        assert_eq!(line(&["destinations", "keep", "directory"]), Some(5));
        assert_eq!(line(&["destinations", "b", "keep"]), Some(6));
        assert_eq!(line(&["destinations", "b", "keep", "last"]), Some(7));
        for missing in [&["last"][..], &["keep", "last", "x"], &["destinations", "c"], &[]] {
            assert_eq!(line(missing), None, "{missing:?}");
        }
    }
}
