//! `netstate completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    cli::Cli,
    console::{Console, Format},
    failure::Failure,
};

/// Print a script that completes netstate's command lines in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netstate completions bash > /etc/bash_completion.d/netstate
  netstate completions zsh > ~/.zfunc/_netstate
  netstate completions fish > ~/.config/fish/completions/netstate.fish")]
pub(crate) struct Args {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "netstate", &mut script);
    Console::new(Format::Table).raw(&script)
}
