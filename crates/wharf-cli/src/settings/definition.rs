//! What one setting is, and the macro that turns the table of settings into types.

use std::ops::RangeInclusive;

use clap::builder::PossibleValue;

use super::Settings;

/// One setting: everything that a flag, a line of a file, a variable of the environment and the
/// documentation need to know about it.
pub(crate) struct Definition {
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    /// The dotted key: `limits.frame_bytes_max`.
    pub(crate) key: &'static str,
    /// What a plain number counts; empty where the value is no number.
    pub(crate) unit: &'static str,
    /// The default as a person would write it.
    pub(crate) default: &'static str,
    pub(crate) help_lines: &'static [&'static str],
    pub(crate) reason: &'static str,
    pub(crate) is_list: bool,
    /// Whether what is written may have a password in it.
    pub(crate) has_secrets: bool,
    /// What the flag alone means, without a value behind it.
    pub(crate) bare: Option<&'static str>,
    pub(crate) ranges: &'static [RangeInclusive<u64>],
    pub(crate) choices: fn() -> Vec<PossibleValue>,
    pub(crate) placeholder: fn() -> Option<&'static str>,
    pub(crate) set: fn(&mut Settings, &str) -> Result<(), String>,
    /// The value as TOML, without its secrets.
    pub(crate) toml: fn(&Settings) -> String,
    /// Whether the value is the same in both, its secrets too.
    pub(crate) same: fn(&Settings, &Settings) -> bool,
}

impl Definition {
    /// `limits.frame_bytes_max` is `limits-frame-bytes-max`; the section `server` is left out.
    pub(crate) fn flag(&self) -> String {
        self.bare_key().replace(['.', '_'], "-")
    }

    /// `limits.frame_bytes_max` is `WHARF_LIMITS_FRAME_BYTES_MAX`; `server` is left out.
    pub(crate) fn environment(&self) -> String {
        format!("WHARF_{}", self.bare_key().replace('.', "_").to_uppercase())
    }

    /// The help as one paragraph.
    pub(crate) fn help(&self) -> String {
        let lines: Vec<&str> = self.help_lines.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }

    /// Whether this text is a value of this setting.
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        (self.set)(&mut Settings::default(), text)
    }

    /// What was written for this setting, as it may be shown.
    pub(crate) fn shown(&self, text: &str) -> String {
        if self.has_secrets { wharf_chat::hide_password(text) } else { text.to_owned() }
    }

    fn bare_key(&self) -> &'static str {
        self.key.strip_prefix("server.").unwrap_or(self.key)
    }
}

/// The first of at most one.
pub(crate) const fn first(texts: &[&'static str]) -> Option<&'static str> {
    match texts {
        [text, ..] => Some(text),
        [] => None,
    }
}

/// A group of settings that share the first part of their key.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) help_lines: &'static [&'static str],
}

impl Section {
    /// The help as one paragraph.
    pub(crate) fn help(&self) -> String {
        let lines: Vec<&str> = self.help_lines.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// Turns the table into the typed structs, their defaults, `DEFINITIONS` and `SECTIONS`.
///
/// A row is: doc comment (the help), `name: kind`, then default, unit, an optional range (bytes,
/// milliseconds or the plain number) and the reason for the default.
macro_rules! settings {
    ($(
        $(#[doc = $section_help:literal])+
        $section:ident: $group:ident {$(
            $(#[doc = $help:literal])+
            $name:ident: $kind:ty {
                default: $default:literal,
                unit: $unit:literal,
                $(bare: $bare:literal,)?
                $(range: $range:expr,)?
                reason: $reason:literal,
            }
        )+}
    )+) => {
        /// Every setting of `wharf serve`, typed and checked.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct Settings {
            $($(#[doc = $section_help])+ pub(crate) $section: $group,)+
        }

        $(
            $(#[doc = $section_help])+
            #[derive(Clone, Debug, PartialEq)]
            pub(crate) struct $group {
                $($(#[doc = $help])+ pub(crate) $name: $kind,)+
            }
        )+

        impl Default for Settings {
            fn default() -> Self {
                Self {
                    $($section: $group {
                        $($name: $crate::settings::value::of_default($default, $unit),)+
                    },)+
                }
            }
        }

        /// Every setting, in the order of the table.
        pub(crate) static DEFINITIONS: &[$crate::settings::Definition] = &[$($(
            $crate::settings::Definition {
                section: stringify!($section),
                name: stringify!($name),
                key: concat!(stringify!($section), ".", stringify!($name)),
                unit: $unit,
                default: $default,
                help_lines: &[$($help),+],
                reason: $reason,
                bare: $crate::settings::definition::first(&[$($bare)?]),
                is_list: <$kind as $crate::settings::value::Value>::IS_LIST,
                has_secrets: <$kind as $crate::settings::value::Value>::HAS_SECRETS,
                ranges: &[$($range)?],
                choices: <$kind as $crate::settings::value::Value>::choices,
                placeholder: <$kind as $crate::settings::value::Value>::placeholder,
                set: |settings, text| {
                    settings.$section.$name =
                        $crate::settings::value::parse_within(text, $unit, &[$($range)?])?;
                    Ok(())
                },
                toml: |settings| $crate::settings::value::Value::toml(&settings.$section.$name),
                same: |one, other| one.$section.$name == other.$section.$name,
            },
        )+)+];

        /// The sections, in the order of the table.
        pub(crate) static SECTIONS: &[$crate::settings::Section] = &[$(
            $crate::settings::Section {
                name: stringify!($section),
                help_lines: &[$($section_help),+],
            },
        )+];
    };
}

pub(crate) use settings;
