//! How a command ends other than well, and the exit code that says so.

use std::process::ExitCode;

use netstate_client::ClientError;

use crate::console::talk;

const REFUSED: u8 = 1;
/// The exit code for a command line or a configuration that can't be used.
pub(crate) const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was understood and refused, or could not be done here.
    Refused(anyhow::Error),
    /// A question was answered with no. The answer itself is on standard output already; this says more, if anything.
    False(Option<String>),
    /// The command line or the configuration is wrong.
    Usage(String),
    /// No server answered, or none in time.
    Unreachable(ClientError),
    /// Whoever read standard output has left: nothing more to do, and nobody to tell.
    Closed,
}

impl Failure {
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Failure::Refused(error.into())
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure::Usage(text.into())
    }

    /// A refusal in one sentence.
    pub(crate) fn because(text: impl Into<String>) -> Self {
        Failure::Refused(anyhow::Error::msg(text.into()))
    }

    /// Tells the user, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Refused(error) => {
                talk(format_args!("netstate: {error:#}"));
                REFUSED.into()
            }
            Failure::False(text) => {
                if let Some(text) = text {
                    talk(format_args!("netstate: {text}"));
                }
                REFUSED.into()
            }
            Failure::Usage(text) => {
                talk(format_args!("netstate: {text}"));
                USAGE.into()
            }
            Failure::Unreachable(error) => {
                talk(format_args!("netstate: {:#}", anyhow::Error::new(error)));
                UNREACHABLE.into()
            }
            Failure::Closed => ExitCode::SUCCESS,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { .. } => Failure::refused(error),
            ClientError::Address(_) => Failure::Usage(format!("{:#}", anyhow::Error::new(error))),
            // An unknown outcome says how to learn it: with --request-id.
            ClientError::Unreachable { .. } | ClientError::Unknown { .. } => Failure::Unreachable(error),
        }
    }
}
