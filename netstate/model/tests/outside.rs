//! Whatever comes from outside is read or refused; nothing panics, and what is read is written the same way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use netstate_model::*;
use proptest::prelude::*;

/// Texts that are close to what is meant, and any others.
fn text() -> impl Strategy<Value = String> {
    let near = "[a-z0-9A-Z=!,() \"\\\\./:_éx\\n-]{0,40}";
    prop_oneof![near.prop_map(String::from), any::<String>(), "(net|h|c|e)[0-9.]{0,12}".prop_map(String::from)]
}

fn reads_as_written<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(
    text: &str,
) -> Result<(), TestCaseError> {
    if let Ok(read) = text.parse::<T>() {
        let again = read.to_string().parse::<T>();
        prop_assert!(again.is_ok_and(|again| again == read), "{:?} does not read back", read);
    }
    Ok(())
}

/// The values of real records, to be damaged.
fn samples() -> Vec<(Vec<u8>, Vec<u8>)> {
    let file = include_str!("../testdata/records/version-1.txt");
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
    };
    let lines = file.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pair = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        (bytes(words.next().unwrap()), bytes(words.next().unwrap()))
    };
    lines.map(pair).collect()
}

/// Reads a record as both kinds, and makes the change if it is one.
fn read(key: &[u8], value: Option<&[u8]>) -> Result<(), TestCaseError> {
    if let Ok(change) = NetworkChange::from_record(key, value) {
        prop_assert_eq!(
            &NetworkChange::from_record(&change.to_record().0, change.to_record().1.as_deref()),
            &Ok(change.clone())
        );
        let mut state = NetworkState::default();
        state.evolve(&change);
        let attach = Attach {
            name: Name::new("web-1").unwrap(),
            host: HostId::new(1),
            addresses: Vec::new(),
            mac: None,
            labels: Labels::NONE,
            workload: String::new(),
            netns: None,
        };
        let context = Context { now: Timestamp::from_micros(0), actor: "", reason: "" };
        for change in state.decide(NetworkCommand::Attach(vec![attach]), &context).unwrap_or_default() {
            state.evolve(&change);
        }
        prop_assert!(!change.describe().is_empty());
    }
    if let Ok(change) = DirectoryChange::from_record(key, value) {
        prop_assert_eq!(
            &DirectoryChange::from_record(&change.to_record().0, change.to_record().1.as_deref()),
            &Ok(change.clone())
        );
        Directory::new().evolve(&change);
        prop_assert!(!change.describe().is_empty());
    }
    Ok(())
}

proptest! {
    #[test]
    fn texts(text in text()) {
        reads_as_written::<Name>(&text)?;
        reads_as_written::<Selector>(&text)?;
        reads_as_written::<Mac>(&text)?;
        reads_as_written::<NetnsName>(&text)?;
        reads_as_written::<Ports>(&text)?;
        reads_as_written::<Protocol>(&text)?;
        reads_as_written::<NetworkId>(&text)?;
        reads_as_written::<EndpointId>(&text)?;
        let _ = Labels::new([(text.clone(), text.clone())]);
        let directory = Directory::new();
        prop_assert!(directory.resolve_network(&text).is_err_and(|refusal| refusal.to_string().len() < 1000));
        prop_assert!(NetworkState::default().resolve(&text).is_err());
        if let Ok(name) = Name::new(&text) {
            prop_assert!(name.as_str().parse::<EndpointId>().is_err() && name.as_str().parse::<HostId>().is_err());
        }
    }

    #[test]
    fn any_bytes(
        key in prop::collection::vec(any::<u8>(), 0..8),
        value in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
    ) {
        read(&key, value.as_deref())?;
    }

    #[test]
    fn damaged_records(
        sample in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut: bool,
    ) {
        let samples = samples();
        let (key, mut value) = samples[sample.index(samples.len())].clone();
        read(&key, Some(&value))?;
        let at = at.index(value.len());
        value[at] = byte;
        if cut {
            value.truncate(at);
        }
        read(&key, Some(&value))?;
    }
}

#[test]
fn long_texts_are_refused_briefly() {
    let long = "x".repeat(1 << 20);
    assert!(Name::new(&long).unwrap_err().to_string().len() < 300);
    assert!(long.parse::<Selector>().unwrap_err().to_string().len() < 300);
    assert!(long.parse::<Mac>().unwrap_err().to_string().len() < 300);
    assert!(NetnsName::new(&long).unwrap_err().to_string().len() < 300);
    assert!(Labels::new([(long.as_str(), "x")]).unwrap_err().to_string().len() < 300);
    assert!(Directory::new().resolve_host(&long).unwrap_err().to_string().len() < 300);
}

#[test]
fn other_formats_are_refused_by_name() {
    let (key, value) = DirectoryChange::Counters(Counters::default()).to_record();
    let mut value = value.unwrap();
    value[0] = 2;
    let refused = DirectoryChange::from_record(&key, Some(&value)).unwrap_err();
    assert_eq!(refused, RecordError::Version { what: "ids", found: 2 });
    value[0] = 1;
    value.push(0);
    assert!(DirectoryChange::from_record(&key, Some(&value)).is_err(), "something behind the value");
    assert!(DirectoryChange::from_record(&key, None).is_err(), "counters are never removed");
    assert!(DirectoryChange::from_record(&[], None).is_err());
}
