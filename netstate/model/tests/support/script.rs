//! Scripts: commands, a line `----`, what they print; an empty line; the next commands. `#` begins a comment line.
//!
//! With `UPDATE=1` in the environment what is printed is written into the script instead of compared with it.

use std::{fmt::Write as _, fs, path::Path};

/// Runs all scripts of a folder below `testdata`, each against a new world.
pub(crate) fn check<W: FnMut(&str) -> String>(folder: &str, new_world: impl Fn() -> W) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let mut scripts: Vec<_> =
        fs::read_dir(&folder).expect("the folder of scripts").map(|file| file.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    for path in scripts {
        let script = fs::read_to_string(&path).unwrap();
        let printed = run(&script, new_world());
        if update {
            fs::write(&path, printed).unwrap();
        } else if let Some(at) = script.lines().zip(printed.lines()).position(|(expected, found)| expected != found) {
            let shown = |text: &str| text.lines().nth(at).unwrap_or_default().to_owned();
            panic!("{}:{}\nexpected: {}\nprinted:  {}", path.display(), at + 1, shown(&script), shown(&printed));
        } else {
            assert_eq!(script, printed, "{}: one is longer than the other", path.display());
        }
    }
}

/// The script as it should read: its own commands, with what they print.
fn run(script: &str, mut world: impl FnMut(&str) -> String) -> String {
    let mut printed = String::new();
    for block in script.trim().split("\n\n").filter(|block| !block.trim().is_empty()) {
        let commands: Vec<&str> = block.trim_start_matches('\n').lines().take_while(|line| *line != "----").collect();
        let mut output = String::new();
        for command in &commands {
            writeln!(printed, "{command}").unwrap();
            if !command.starts_with('#') {
                output += &world(command);
            }
        }
        if commands.iter().any(|command| !command.starts_with('#')) {
            assert!(!output.contains("\n\n"), "an empty line would end the block: {output:?}");
            writeln!(printed, "----\n{}", output.trim_end()).unwrap();
        }
        printed.push('\n');
    }
    printed.truncate(printed.trim_end().len());
    printed.push('\n');
    printed
}
