//! A scenario from a TOML file: several groups that load at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::arena::Walking;
use super::bounds::{CONNECTIONS_MAX, MESSAGES_MAX, time, visits, whole};
use super::chat::Talk;
use super::pattern::Sizes;
use super::scenario::{Group, Kind, Traffic};
use super::schedule::{Arrival, Rate};
use crate::settings::{Framing, parse_choice, to_reach};

/// The whole file. Times of the command line count where the file says nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mix {
    duration: Option<Text>,
    warmup: Option<Text>,
    #[serde(default)]
    group: Vec<BTreeMap<String, Text>>,
}

/// A value as it would be written on the command line.
#[derive(Debug, Clone)]
struct Text(String);

/// The keys of one group that nobody has asked for yet.
struct Keys {
    name: String,
    left: BTreeMap<String, Text>,
}

impl Mix {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or says something that cannot be; the error names the place.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        text.parse().with_context(|| path.display().to_string())
    }

    /// How long it says to measure and to warm up.
    ///
    /// # Errors
    /// That is not a time.
    pub(crate) fn times(&self) -> Result<[Option<Duration>; 2]> {
        let read = |name, text: &Option<Text>| {
            let parse = |text: &Text| time(&text.0).map_err(|error| anyhow!("{name}: {error}"));
            text.as_ref().map(parse).transpose()
        };
        Ok([read("duration", &self.duration)?, read("warmup", &self.warmup)?])
    }

    /// The groups, each with what it says over what all of them have in common.
    ///
    /// # Errors
    /// A key is unknown, missing or wrong; the error names group and key.
    pub(crate) fn groups(&self, common: &Group) -> Result<Vec<Group>> {
        if self.group.is_empty() {
            bail!("there is no [[group]]");
        }
        let group = |(index, keys): (usize, &BTreeMap<String, Text>)| group(index, keys, common);
        self.group.iter().enumerate().map(group).collect()
    }
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }
}

fn group(index: usize, keys: &BTreeMap<String, Text>, common: &Group) -> Result<Group> {
    let name =
        keys.get("name").map_or_else(|| format!("group {}", index + 1), |name| name.0.clone());
    let mut keys = Keys { name: name.clone(), left: keys.clone() };
    keys.left.remove("name");
    let kind = keys.take("kind", |kind| Ok(kind.to_owned()))?;
    let kind = kind
        .ok_or_else(|| anyhow!("{name}: `kind` is missing: echo, connect, idle, chat or arena"))?;
    let is_chat = kind == "chat";
    let usual = if is_chat { Framing::Tutorial } else { common.framing };
    let connections = keys.take("connections", |text| whole(text, 1, CONNECTIONS_MAX))?;
    let group = Group {
        addr: keys.take("addr", to_reach)?.unwrap_or(common.addr),
        framing: keys.take("framing", parse_choice)?.unwrap_or(usual),
        connections: connections.unwrap_or(common.connections),
        kind: match kind.as_str() {
            "echo" => echo(&mut keys)?,
            "connect" => Kind::Connect {
                messages: messages(&mut keys)?,
                sizes: size(&mut keys)?,
                rate: keys.take("rate", visits)?,
            },
            "idle" => Kind::Idle { messages: messages(&mut keys)?, sizes: size(&mut keys)? },
            "chat" => Kind::Chat(talk(&mut keys)?),
            "arena" => Kind::Arena(Walking {
                rate: keys.take("rate", Rate::from_str)?.unwrap_or(Rate::Constant(100.0)),
                arrival: keys.take("arrival", parse_choice::<Arrival>)?.unwrap_or_default(),
            }),
            other => {
                bail!("{name}: `kind` is `{other}` and not one of echo, connect, idle, chat, arena")
            }
        },
        name,
    };
    match keys.left.keys().next() {
        Some(unknown) => bail!("{}: `{kind}` has no key `{unknown}`", keys.name),
        None => Ok(group),
    }
}

fn messages(keys: &mut Keys) -> Result<u32> {
    Ok(keys.take("messages", |text| whole(text, 0, MESSAGES_MAX))?.unwrap_or(1))
}

fn size(keys: &mut Keys) -> Result<Sizes> {
    Ok(keys.take("size", Sizes::from_str)?.unwrap_or(USUAL_SIZE))
}

fn echo(keys: &mut Keys) -> Result<Kind> {
    let rate: Option<Rate> = keys.take("rate", Rate::from_str)?;
    let usual_depth = if rate.is_some() { crate::bench::OPEN_LOOP_DEPTH } else { 1 };
    Ok(Kind::Echo(Traffic {
        sizes: size(keys)?,
        depth: keys.take("depth", |text| whole(text, 1, MESSAGES_MAX))?.unwrap_or(usual_depth),
        rate,
        arrival: keys.take("arrival", parse_choice::<Arrival>)?.unwrap_or_default(),
    }))
}

fn talk(keys: &mut Keys) -> Result<Talk> {
    Ok(Talk {
        rate: keys.take("rate", Rate::from_str)?.unwrap_or(Rate::Constant(100.0)),
        arrival: keys.take("arrival", parse_choice::<Arrival>)?.unwrap_or_default(),
        sizes: size(keys)?,
        rooms: keys.parse("rooms")?.unwrap_or(1),
        first_room: keys.parse("first_room")?.unwrap_or(0),
        talkers: keys.parse("talkers")?,
        stay: keys.take("stay", time)?,
        user_prefix: keys.parse("user_prefix")?.unwrap_or_else(|| "user".to_owned()),
        password: keys.parse("password")?.unwrap_or_else(|| "pw".to_owned()),
    })
}

impl Keys {
    /// The value of this key, if it is there.
    fn take<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>> {
        let Some(text) = self.left.remove(key) else { return Ok(None) };
        read(&text.0).map(Some).map_err(|error| anyhow!("{}: `{key}`: {error}", self.name))
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, key: &str) -> Result<Option<T>> {
        self.take(key, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// As on the command line.
const USUAL_SIZE: Sizes = Sizes { shortest: 64, longest: 64 };

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(text: &str) -> Result<Vec<Group>> {
        let kind = Kind::Idle { messages: 1, sizes: USUAL_SIZE };
        let addr = "127.0.0.1:1".parse().unwrap();
        let name = "common".to_owned();
        let common = Group { name, addr, framing: Framing::Study, connections: 50, kind };
        text.parse::<Mix>()?.groups(&common)
    }

    #[test]
    fn groups_say_what_differs_from_the_command_line() {
        let text = "duration = \"3s\"\nwarmup = 1\n\
                    [[group]]\nkind = \"echo\"\nrate = 500\nsize = \"16..64\"\n\
                    [[group]]\nname = \"held\"\nkind = \"idle\"\nconnections = 900\n\
                    [[group]]\nkind = \"connect\"\nrate = 12.5\naddr = \"localhost:2\"\n\
                    [[group]]\nkind = \"chat\"\nrooms = 3\nstay = \"2s\"\n\
                    [[group]]\nname = \"field\"\nkind = \"arena\"\nrate = 70\n";
        let mix: Mix = text.parse().unwrap();
        assert_eq!(mix.times().unwrap(), [3, 1].map(|s| Some(Duration::from_secs(s))));
        let groups = groups(text).unwrap();
        let shown: Vec<_> =
            groups.iter().map(|group| (group.name.as_str(), group.connections)).collect();
        assert_eq!(
            shown,
            [("group 1", 50), ("held", 900), ("group 3", 50), ("group 4", 50), ("field", 50)]
        );
        assert_eq!(groups[4].rate().unwrap().to_string(), "70");
        assert!(matches!(&groups[0].kind, Kind::Echo(Traffic { rate: Some(_), depth: 1024, .. })));
        assert!(matches!(groups[2].kind, Kind::Connect { rate: Some(12.5), messages: 1, .. }));
        assert_eq!((groups[2].addr.port(), groups[3].framing), (2, Framing::Tutorial));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, expected) in [
            ("", "no [[group]]"),
            ("[[group]]\n", "group 1: `kind` is missing"),
            ("[[group]]\nkind = \"walk\"\n", "`kind` is `walk`"),
            ("[[group]]\nkind = \"idle\"\nrate = 5\n", "group 1: `idle` has no key `rate`"),
            (
                "[[group]]\nkind = \"echo\"\nrate = \"much\"\n",
                "`rate`: expected messages per second",
            ),
            ("[[group]]\nkind = \"idle\"\nconnections = 0\n", "expected a number from 1"),
            ("[[group]]\nkind = \"connect\"\nrate = nan\n", "`rate`: expected a number above 0"),
            ("[[group]]\nkind = \"connect\"\nrate = -1\n", "`rate`: expected a number above 0"),
            ("[[group]]\nkind = \"connect\"\nmessages = 65537\n", "from 0 to 65,536"),
            ("[[group]]\nkind = \"echo\"\ndepth = 0\n", "`depth`: expected a number from 1"),
            ("[[group]]\nkind = \"chat\"\nstay = \"1e9 years\"\n", "`stay`: expected"),
            ("[[group]]\nkind = \"idle\"\naddr = \"here\"\n", "`addr`: `here` is not a host"),
            ("[[group]]\nkind = \"idle\"\nframing = \"u8\"\n", "`u8` is not one of"),
            ("speed = 5\n", "line 1"),
            ("[[group]]\nkind = [1]\n", "line 2"),
        ] {
            let error = groups(text).unwrap_err();
            let told = format!("{error:#}");
            assert!(told.contains(expected), "{text:?}: {told}");
        }
    }
}
