//! Where settings come from.

use std::{collections::BTreeMap, fmt, io, path::Path};

use super::{DISK_RESERVE, ETCD_QUOTA, GROUPS, INITIAL_CLUSTER, OTEL_SAMPLE, SETTINGS};

/// Where a setting was given.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Flag(&'static str),
    Variable(String),
    File { path: String, key: &'static str },
    Default(&'static str),
}

/// What was given, each with its source.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<&'static str, (String, Source)>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(key) => write!(f, "--{key}"),
            Source::Variable(name) => write!(f, "variable {name}"),
            Source::File { path, key } => write!(f, "{path}, {key}"),
            Source::Default(key) => write!(f, "{key}"),
        }
    }
}

impl Settings {
    /// Takes each setting from where it is given first: flags, variables, file, defaults. An empty variable is none.
    pub(super) fn gather(
        flags: &[(&'static str, String)],
        variable: &dyn Fn(&str) -> Option<String>,
        file: Option<(&Path, io::Result<String>)>,
        mistakes: &mut Vec<String>,
    ) -> Self {
        let mut settings = Settings::default();
        for (key, default) in SETTINGS {
            if let Some(default) = default {
                settings.0.insert(key, (default.to_owned(), Source::Default(key)));
            }
        }
        if let Some((path, text)) = file {
            settings.take_file(&path.display().to_string(), text, mistakes);
        }
        for (key, _) in SETTINGS {
            let name = format!("NETSTATE_{}", key.replace('-', "_").to_uppercase());
            if let Some(value) = variable(&name).filter(|value| !value.is_empty()) {
                settings.0.insert(key, (value, Source::Variable(name)));
            }
        }
        for (key, value) in flags {
            settings.0.insert(key, (value.clone(), Source::Flag(key)));
        }
        settings
    }

    fn take_file(&mut self, path: &str, text: io::Result<String>, mistakes: &mut Vec<String>) {
        let text = match text {
            Ok(text) => text,
            Err(error) => return mistakes.push(format!("{path}: can't be read: {error}")),
        };
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                return mistakes.push(format!("{path}: {}", error.to_string().trim_end().replace('\n', "\n    ")));
            }
        };
        for (given, value) in table {
            let Some((key, _)) = SETTINGS.into_iter().find(|(key, _)| *key == given) else {
                let known: Vec<&str> = SETTINGS.iter().map(|(key, _)| *key).collect();
                let given: String = given.chars().take(80).collect();
                mistakes.push(format!("{path}, {given}: there is no such setting; there are {}", known.join(", ")));
                continue;
            };
            let source = Source::File { path: path.to_owned(), key };
            match text_of(key, &value) {
                Ok(text) => drop(self.0.insert(key, (text, source))),
                Err(wanted) => mistakes.push(format!("{source}: has to be {wanted}")),
            }
        }
    }

    /// What a setting is, if it is given or has a default.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|(value, _)| value.as_str())
    }

    /// Where it was given.
    pub(super) fn source(&self, key: &'static str) -> Source {
        self.0.get(key).map_or(Source::Default(key), |(_, source)| source.clone())
    }
}

/// A TOML value as it would stand on the command line, or what it has to be.
fn text_of(key: &str, value: &toml::Value) -> Result<String, &'static str> {
    use toml::Value;
    match (key, value) {
        (GROUPS | DISK_RESERVE | ETCD_QUOTA, Value::Integer(number)) => Ok(number.to_string()),
        (GROUPS | DISK_RESERVE | ETCD_QUOTA, _) => Err("a whole number"),
        (OTEL_SAMPLE, Value::Float(share)) => Ok(share.to_string()),
        (_, Value::String(text)) => Ok(text.clone()),
        (INITIAL_CLUSTER, Value::Array(members)) => {
            let members: Option<Vec<&str>> = members.iter().map(Value::as_str).collect();
            members.map(|members| members.join(",")).ok_or("a list of texts such as \"n1=10.0.0.1:2380\"")
        }
        (INITIAL_CLUSTER, _) => Err("a list of texts such as \"n1=10.0.0.1:2380\""),
        _ => Err("a text in quotes"),
    }
}
