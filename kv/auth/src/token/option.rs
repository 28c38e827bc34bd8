//! The text that says how tokens are made, as etcd's `--auth-token` has it: `simple`, or
//! `jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m`.

use std::{collections::BTreeMap, io, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, errors::Error as KeyError, jwk::Jwk};

use super::{Kind, Tokens, duration, jwt::WebTokens, sec1};
use crate::limits;

const SIGN_METHOD: &str = "sign-method";
const PUBLIC_KEY: &str = "pub-key";
const PRIVATE_KEY: &str = "priv-key";
const TTL: &str = "ttl";

const METHODS: [(&str, Algorithm); 12] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("EdDSA", Algorithm::EdDSA),
];

/// Why an option can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenOptionError {
    /// Neither of the two kinds.
    #[error("token type {found:?} is unknown; use \"simple\" or \"jwt\"")]
    UnknownType {
        /// What stands first.
        found: String,
    },
    /// Not a `NAME=VALUE`.
    #[error("token option {found:?} has no value; write NAME=VALUE")]
    NotAPair {
        /// What stands there.
        found: String,
    },
    /// The same name twice.
    #[error("token option {name} is given twice; leave one out")]
    Twice {
        /// The name.
        name: String,
    },
    /// A name that means nothing for this kind of token.
    #[error(
        "token option {name:?} is unknown; known are sign-method, pub-key, priv-key and ttl, all of them for jwt only"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// Not a length of time.
    #[error("ttl {found:?} is no length of time; write it like 10m or 1h30m, and at least 1s")]
    Ttl {
        /// What stands there.
        found: String,
    },
    /// None of the algorithms, or none at all.
    #[error(
        "sign-method {found:?} is not supported; use one of RS256, PS256, ES256, HS256, their 384 and (but for ES) 512 forms, or EdDSA"
    )]
    Method {
        /// What stands there.
        found: String,
    },
    /// No key, or not the one needed.
    #[error("{name} is needed for {method}; give the file that has it")]
    MissingKey {
        /// The option's name.
        name: &'static str,
        /// The sign-method.
        method: &'static str,
    },
    /// The file of a key couldn't be read.
    #[error("{name} {path:?} can't be read")]
    Unreadable {
        /// The option's name.
        name: &'static str,
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file has no key of the kind needed.
    #[error("{name} {path:?} has no key for {method}; keys are read in PEM, for HS in any form")]
    NotAKey {
        /// The option's name.
        name: &'static str,
        /// The file.
        path: String,
        /// The sign-method.
        method: &'static str,
        /// What the library says.
        #[source]
        source: KeyError,
    },
    /// What the one signs the other doesn't verify.
    #[error("pub-key and priv-key are not of one pair for {method}; give those that are")]
    Mismatch {
        /// The sign-method.
        method: &'static str,
    },
}

impl Tokens {
    /// From the text of the option. `simple_ttl` is for simple tokens; web tokens have theirs in the text. The files
    /// named in it are read by `read`.
    pub fn from_option(
        text: &str,
        simple_ttl: Duration,
        read: impl FnMut(&str) -> io::Result<Vec<u8>>,
    ) -> Result<Self, TokenOptionError> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let options = pairs(parts)?;
        match kind {
            "simple" => match options.keys().next() {
                None => Ok(Self::simple(simple_ttl)),
                Some(name) => Err(TokenOptionError::Unknown { name: (*name).to_owned() }),
            },
            "jwt" => web(&options, read).map(|web| Self(Kind::Web(web))),
            other => Err(TokenOptionError::UnknownType { found: other.to_owned() }),
        }
    }
}

fn pairs<'a>(parts: impl Iterator<Item = &'a str>) -> Result<BTreeMap<&'a str, &'a str>, TokenOptionError> {
    let mut options = BTreeMap::new();
    for part in parts {
        let (name, value) =
            part.split_once('=').ok_or_else(|| TokenOptionError::NotAPair { found: part.to_owned() })?;
        if options.insert(name, value).is_some() {
            return Err(TokenOptionError::Twice { name: name.to_owned() });
        }
    }
    Ok(options)
}

/// A key file that was named.
struct KeyFile<'a> {
    name: &'static str,
    path: &'a str,
    method: &'static str,
    content: Vec<u8>,
}

impl KeyFile<'_> {
    fn parse<K>(&self, parse: impl FnOnce(&[u8]) -> Result<K, KeyError>) -> Result<K, TokenOptionError> {
        parse(&self.content).map_err(|source| self.unusable(source))
    }

    fn unusable(&self, source: KeyError) -> TokenOptionError {
        TokenOptionError::NotAKey { name: self.name, path: self.path.to_owned(), method: self.method, source }
    }
}

fn web(
    options: &BTreeMap<&str, &str>,
    mut read: impl FnMut(&str) -> io::Result<Vec<u8>>,
) -> Result<WebTokens, TokenOptionError> {
    if let Some(name) = options.keys().find(|name| ![SIGN_METHOD, PUBLIC_KEY, PRIVATE_KEY, TTL].contains(name)) {
        return Err(TokenOptionError::Unknown { name: (*name).to_owned() });
    }
    let given = |name| options.get(name).copied().filter(|value| !value.is_empty());
    let ttl = match given(TTL) {
        None => limits::JWT_TTL,
        Some(text) => duration::parse(text)
            .filter(|ttl| ttl.as_secs() > 0)
            .ok_or_else(|| TokenOptionError::Ttl { found: text.to_owned() })?,
    };
    let found = given(SIGN_METHOD).unwrap_or_default();
    let Some((method, algorithm)) = METHODS.into_iter().find(|(name, _)| *name == found) else {
        return Err(TokenOptionError::Method { found: found.to_owned() });
    };
    let mut file = |name| match given(name) {
        None => Ok(None),
        Some(path) => match read(path) {
            Ok(content) => Ok(Some(KeyFile { name, path, method, content })),
            Err(source) => Err(TokenOptionError::Unreadable { name, path: path.to_owned(), source }),
        },
    };
    let (private, public) = (file(PRIVATE_KEY)?, file(PUBLIC_KEY)?);
    let (signing, verifying) = keys(algorithm, method, private.as_ref(), public.as_ref())?;
    let tokens = WebTokens::new(algorithm, ttl, signing, verifying);
    if tokens.is_consistent() { Ok(tokens) } else { Err(TokenOptionError::Mismatch { method }) }
}

/// The private key is enough, but for EdDSA; the public key alone is enough to verify, but for HMAC.
fn keys(
    algorithm: Algorithm,
    method: &'static str,
    private: Option<&KeyFile<'_>>,
    public: Option<&KeyFile<'_>>,
) -> Result<(Option<EncodingKey>, DecodingKey), TokenOptionError> {
    let family = algorithm.family();
    let signing = private.map(|file| signing_key(family, file).map(|key| (file, key))).transpose()?;
    let verifying = match (family, public, &signing) {
        (AlgorithmFamily::Hmac, _, Some((file, _))) => DecodingKey::from_secret(&file.content),
        (AlgorithmFamily::Hmac, _, None) => return Err(TokenOptionError::MissingKey { name: PRIVATE_KEY, method }),
        (_, Some(public), _) => verifying_key(family, public)?,
        (AlgorithmFamily::Rsa | AlgorithmFamily::Ec, None, Some((file, key))) => Jwk::from_encoding_key(key, algorithm)
            .and_then(|public| DecodingKey::from_jwk(&public))
            .map_err(|source| file.unusable(source))?,
        // The library can't derive the one from the other here.
        (_, None, _) => return Err(TokenOptionError::MissingKey { name: PUBLIC_KEY, method }),
    };
    Ok((signing.map(|(_, key)| key), verifying))
}

fn signing_key(family: AlgorithmFamily, file: &KeyFile<'_>) -> Result<EncodingKey, TokenOptionError> {
    match family {
        AlgorithmFamily::Hmac if file.content.is_empty() => {
            Err(TokenOptionError::MissingKey { name: file.name, method: file.method })
        }
        AlgorithmFamily::Hmac => Ok(EncodingKey::from_secret(&file.content)),
        AlgorithmFamily::Rsa => file.parse(EncodingKey::from_rsa_pem),
        AlgorithmFamily::Ec => match sec1::to_pkcs8(&file.content) {
            Some(der) => Ok(EncodingKey::from_ec_der(&der)),
            None => file.parse(EncodingKey::from_ec_pem),
        },
        AlgorithmFamily::Ed => file.parse(EncodingKey::from_ed_pem),
    }
}

fn verifying_key(family: AlgorithmFamily, file: &KeyFile<'_>) -> Result<DecodingKey, TokenOptionError> {
    match family {
        AlgorithmFamily::Rsa => file.parse(DecodingKey::from_rsa_pem),
        AlgorithmFamily::Ec => file.parse(DecodingKey::from_ec_pem),
        AlgorithmFamily::Ed => file.parse(DecodingKey::from_ed_pem),
        AlgorithmFamily::Hmac => Ok(DecodingKey::from_secret(&file.content)),
    }
}
