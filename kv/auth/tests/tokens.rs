//! Tokens of both kinds: who gets one, for how long it is valid, and what voids it.

mod support;

use std::{fs, io, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use etcd_proto::authpb::permission::Type::Read;
use kv_auth::{AuthError, AuthState, Command, Credentials, Password, Tokens, limits};
use proptest::prelude::*;
use support::{
    Keyspace, change_password, now, role_add, role_grant, user_add, user_delete, user_grant, user_without_password,
};

/// A file of `tests/keys`, or `hmac`, which isn't one.
fn read(name: &str) -> io::Result<Vec<u8>> {
    match name {
        "hmac" => Ok(b"something long enough".to_vec()),
        "empty" => Ok(Vec::new()),
        file => fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(file)),
    }
}

fn option(text: &str) -> Tokens {
    Tokens::from_option(text, limits::SIMPLE_TOKEN_TTL, read).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn with(tokens: Tokens) -> Keyspace {
    let mut keyspace = Keyspace::enabled();
    keyspace.run([user_add("u"), user_without_password("bare")]);
    keyspace.tokens = tokens;
    keyspace
}

/// One token maker of each kind.
fn kinds() -> [Keyspace; 2] {
    [with(option("simple")), with(option("jwt,sign-method=HS256,priv-key=hmac,ttl=24h"))]
}

#[test]
fn logging_in() {
    for keyspace in kinds() {
        let failed = Err(AuthError::AuthenticationFailed);
        assert_eq!(keyspace.log_in("u", "wrong"), failed);
        assert_eq!(keyspace.log_in("u", ""), failed);
        assert_eq!(keyspace.log_in("nobody", "u"), failed);
        assert_eq!(keyspace.log_in("u", &"p".repeat(limits::PASSWORD_BYTES + 1)), failed);
        assert_eq!(keyspace.log_in("bare", "bare"), Err(AuthError::NoPasswordUser));
        let token = keyspace.log_in("u", "u").unwrap();
        let who = keyspace.by_token(&token, now()).unwrap().unwrap();
        assert_eq!(who.user(), "u");
    }
    let disabled = Keyspace::new();
    assert_eq!(disabled.log_in("root", "root"), Err(AuthError::NotEnabled));
    assert_eq!(disabled.by_token("anything", now()), Err(AuthError::InvalidToken));
    assert_eq!(disabled.by_certificate("root"), None);
}

#[test]
fn a_token_decides_before_a_certificate() {
    let keyspace = with(Tokens::default());
    let token = keyspace.log_in("u", "u").unwrap();
    let both = |token| Credentials { token: Some(token), certificate_name: Some("root") };
    let who = keyspace.state.identify(both(&token), &keyspace.tokens, now()).unwrap();
    assert_eq!(who.unwrap().user(), "u");
    assert_eq!(keyspace.state.identify(both("forged"), &keyspace.tokens, now()), Err(AuthError::InvalidToken));
    assert_eq!(keyspace.state.identify(Credentials::default(), &keyspace.tokens, now()), Ok(None));
}

#[test]
fn tokens_expire() {
    let day = Duration::from_secs(24 * 60 * 60);
    for keyspace in kinds() {
        let token = keyspace.log_in("u", "u").unwrap();
        assert!(keyspace.by_token(&token, now() + day - Duration::from_secs(1)).is_ok());
        assert_eq!(keyspace.by_token(&token, now() + day), Err(AuthError::InvalidToken));
    }
}

/// Every step voids the token, or doesn't.
#[test]
fn what_voids_a_token() {
    let cycle = || vec![Command::Disable, Command::Enable];
    let void = |simple: AuthError, web: AuthError| Some([simple, web]);
    let (invalid, old) = (AuthError::InvalidToken, AuthError::OldRevision);
    let steps: Vec<(Vec<Command>, Option<[AuthError; 2]>)> = vec![
        (vec![role_add("r"), role_grant("r", Read, "a", ""), user_grant("u", "r")], None),
        (vec![user_add("v"), user_delete("v"), change_password("root", "x")], None),
        (vec![change_password("u", "u")], void(invalid.clone(), old.clone())),
        (vec![user_delete("u")], void(invalid.clone(), invalid.clone())),
        (vec![user_delete("u"), user_add("u")], void(invalid.clone(), old.clone())),
        (cycle(), void(invalid, old)),
    ];
    for (commands, expected) in steps {
        for (kind, mut keyspace) in kinds().into_iter().enumerate() {
            let token = keyspace.log_in("u", "u").unwrap();
            keyspace.run(commands.clone());
            let refused = keyspace.by_token(&token, now()).err();
            assert_eq!(refused, expected.as_ref().map(|refusals| refusals[kind].clone()), "{commands:?}");
        }
    }
}

#[test]
fn another_keyspace_and_another_kind_refuse_a_token() {
    let [simple, web] = kinds();
    for (from, to) in [(&simple, &web), (&web, &simple)] {
        let token = from.log_in("u", "u").unwrap();
        assert_eq!(to.by_token(&token, now()), Err(AuthError::InvalidToken));
    }
    let mut other = with(Tokens::default());
    other.run([Command::Disable, Command::Enable]);
    let token = other.log_in("u", "u").unwrap();
    assert!(other.by_token(&token, now()).is_ok());
    assert_eq!(simple.by_token(&token, now()), Err(AuthError::InvalidToken));
}

#[test]
fn every_byte_of_a_token_counts() {
    for keyspace in kinds() {
        let token = keyspace.log_in("u", "u").unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(keyspace.by_token(&changed, now()), Err(AuthError::InvalidToken), "byte {at}");
            assert_eq!(keyspace.by_token(&token[..at], now()), Err(AuthError::InvalidToken), "up to {at}");
        }
        let long = format!("{token}{}", "A".repeat(limits::TOKEN_BYTES));
        assert_eq!(keyspace.by_token(&long, now()), Err(AuthError::InvalidToken));
    }
}

#[test]
fn no_text_makes_reading_a_token_panic() {
    let kinds = kinds();
    proptest!(|(text in "[A-Za-z0-9_.-]{0,80}|.{0,40}")| {
        for keyspace in &kinds {
            prop_assert_eq!(keyspace.by_token(&text, now()), Err(AuthError::InvalidToken));
        }
    });
}

#[test]
fn web_tokens_of_every_method() {
    for text in [
        "jwt,sign-method=RS256,priv-key=rsa.pem",
        "jwt,sign-method=RS512,priv-key=rsa.pkcs1.pem,pub-key=rsa.pub.pem",
        "jwt,pub-key=rsa.pub.pem,priv-key=rsa.pem,sign-method=PS256,ttl=10m",
        "jwt,sign-method=ES256,priv-key=ec256.pem",
        "jwt,sign-method=ES256,priv-key=ec256.sec1.pem,pub-key=ec256.pub.pem",
        "jwt,sign-method=ES384,priv-key=ec384.sec1.pem",
        "jwt,sign-method=ES384,priv-key=ec384.sec1.pem,pub-key=ec384.pub.pem",
        "jwt,sign-method=EdDSA,priv-key=ed.pem,pub-key=ed.pub.pem",
        "jwt,sign-method=HS512,priv-key=hmac",
    ] {
        let mut keyspace = with(option(text));
        let token = keyspace.log_in("u", "u").unwrap();
        assert_eq!(keyspace.by_token(&token, now()).unwrap().unwrap().user(), "u", "{text}");
        if let Some((_, public)) = text.split_once("pub-key=") {
            let (method, public) = (text.split_once("sign-method=").unwrap().1, public.split(',').next().unwrap());
            let method = method.split(',').next().unwrap();
            keyspace.tokens = option(&format!("jwt,sign-method={method},pub-key={public}"));
            assert_eq!(keyspace.by_token(&token, now()).unwrap().unwrap().user(), "u", "{text}");
            assert_eq!(keyspace.log_in("u", "u"), Err(AuthError::VerifyOnly), "{text}");
        }
    }
}

#[test]
fn web_tokens_have_the_claims_of_etcd() {
    let keyspace = with(option("jwt,sign-method=HS256,priv-key=hmac"));
    let token = keyspace.log_in("u", "u").unwrap();
    let parts: Vec<Vec<u8>> =
        token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("parts are in base64url")).collect();
    assert_eq!(String::from_utf8_lossy(&parts[0]), r#"{"typ":"JWT","alg":"HS256"}"#);
    assert_eq!(String::from_utf8_lossy(&parts[1]), r#"{"username":"u","revision":5,"exp":1700000300}"#);
}

/// Tokens issued elsewhere with the same key.
#[test]
fn claims_that_are_refused() {
    let keyspace = with(option("jwt,sign-method=HS256,priv-key=hmac"));
    let sign = |claims: &str| sign_hs256(r#"{"alg":"HS256","typ":"JWT"}"#, claims);
    let (invalid, old) = (AuthError::InvalidToken, AuthError::OldRevision);
    for (claims, refusal) in [
        (r#"{"username":"u","revision":9,"exp":1700000300}"#, None),
        (r#"{"username":"u","revision":5.0,"exp":1700000300.5,"aud":"x","nbf":1}"#, None),
        (r#"{"username":"u","revision":9}"#, Some(invalid.clone())),
        (r#"{"username":"u","exp":1700000300}"#, Some(invalid.clone())),
        (r#"{"revision":9,"exp":1700000300}"#, Some(invalid.clone())),
        (r#"{"username":7,"revision":9,"exp":1700000300}"#, Some(invalid.clone())),
        (r#"{"username":"nobody","revision":9,"exp":1700000300}"#, Some(invalid.clone())),
        (r#"{"username":"u","revision":9,"exp":1699999999}"#, Some(invalid.clone())),
        (r#"{"username":"u","revision":9,"exp":1700000300,"nbf":1700000001}"#, Some(invalid.clone())),
        (r#"{"username":"u","revision":1,"exp":1700000300}"#, Some(old.clone())),
        (r#"{"username":"u","revision":-1,"exp":1700000300}"#, Some(old)),
        ("not json", Some(invalid.clone())),
    ] {
        assert_eq!(keyspace.by_token(&sign(claims), now()).err(), refusal, "{claims}");
    }
    let good = r#"{"username":"u","revision":9,"exp":1700000300}"#;
    for header in [r#"{"alg":"HS512","typ":"JWT"}"#, r#"{"alg":"none","typ":"JWT"}"#, r#"{"alg":"RS256"}"#] {
        assert_eq!(keyspace.by_token(&sign_hs256(header, good), now()), Err(invalid.clone()), "{header}");
    }
}

fn sign_hs256(header: &str, claims: &str) -> String {
    use hmac::Mac as _;
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut mac =
        hmac::Hmac::<sha2::Sha256>::new_from_slice(&read("hmac").expect("is a constant")).expect("any length");
    mac.update(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

#[test]
fn options_that_are_refused() {
    for (text, message) in [
        ("", r#"token type "" is unknown; use "simple" or "jwt""#),
        ("magic", r#"token type "magic" is unknown; use "simple" or "jwt""#),
        (
            "simple,ttl=1m",
            r#"token option "ttl" is unknown; known are sign-method, pub-key, priv-key and ttl, all of them for jwt only"#,
        ),
        ("jwt,ttl", r#"token option "ttl" has no value; write NAME=VALUE"#),
        ("jwt,ttl=1m,ttl=2m", "token option ttl is given twice; leave one out"),
        (
            "jwt,sing-method=HS256",
            r#"token option "sing-method" is unknown; known are sign-method, pub-key, priv-key and ttl, all of them for jwt only"#,
        ),
        (
            "jwt,sign-method=HS256,priv-key=hmac,ttl=soon",
            r#"ttl "soon" is no length of time; write it like 10m or 1h30m, and at least 1s"#,
        ),
        (
            "jwt,priv-key=hmac",
            r#"sign-method "" is not supported; use one of RS256, PS256, ES256, HS256, their 384 and (but for ES) 512 forms, or EdDSA"#,
        ),
        (
            "jwt,sign-method=none",
            r#"sign-method "none" is not supported; use one of RS256, PS256, ES256, HS256, their 384 and (but for ES) 512 forms, or EdDSA"#,
        ),
        ("jwt,sign-method=HS256", "priv-key is needed for HS256; give the file that has it"),
        ("jwt,sign-method=HS256,priv-key=empty", "priv-key is needed for HS256; give the file that has it"),
        ("jwt,sign-method=RS256", "pub-key is needed for RS256; give the file that has it"),
        ("jwt,sign-method=EdDSA,priv-key=ed.pem", "pub-key is needed for EdDSA; give the file that has it"),
        ("jwt,sign-method=RS256,priv-key=no.pem", r#"priv-key "no.pem" can't be read"#),
        (
            "jwt,sign-method=RS256,priv-key=hmac",
            r#"priv-key "hmac" has no key for RS256; keys are read in PEM, for HS in any form"#,
        ),
        (
            "jwt,sign-method=RS256,priv-key=ec256.pem",
            r#"priv-key "ec256.pem" has no key for RS256; keys are read in PEM, for HS in any form"#,
        ),
        (
            "jwt,sign-method=ES256,priv-key=ec384.sec1.pem",
            r#"priv-key "ec384.sec1.pem" has no key for ES256; keys are read in PEM, for HS in any form"#,
        ),
        (
            "jwt,sign-method=RS256,priv-key=rsa.pem,pub-key=rsa.other.pub.pem",
            "pub-key and priv-key are not of one pair for RS256; give those that are",
        ),
        (
            "jwt,sign-method=ES256,priv-key=ec256.pem,pub-key=ec384.pub.pem",
            "pub-key and priv-key are not of one pair for ES256; give those that are",
        ),
    ] {
        let refusal = Tokens::from_option(text, limits::SIMPLE_TOKEN_TTL, read).expect_err(text);
        assert_eq!(refusal.to_string(), message, "{text}");
    }
}

#[test]
fn a_public_key_is_no_secret_for_hmac() {
    // The classical attack: a token signed by HMAC with the public key, which everybody has.
    let mut keyspace = with(option("jwt,sign-method=RS256,pub-key=rsa.pub.pem,priv-key=rsa.pem"));
    let public = Tokens::from_option("jwt,sign-method=HS256,priv-key=rsa.pub.pem", Duration::ZERO, read).unwrap();
    let verifying = std::mem::replace(&mut keyspace.tokens, public);
    let forged = keyspace.log_in("u", "u").unwrap();
    keyspace.tokens = verifying;
    assert_eq!(keyspace.by_token(&forged, now()), Err(AuthError::InvalidToken));
}

/// One hashing at what it costs by default; all other tests use cheap ones.
#[test]
fn the_default_costs_of_hashing_are_those_documented() {
    let mut entropy = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(2);
    let hashing = kv_auth::Hashing::default();
    let changes = AuthState::default().decide(&user_add("root"), &hashing, &mut entropy).unwrap();
    let stored = changes.iter().find_map(|change| change.value.as_ref()).unwrap();
    let stored = String::from_utf8_lossy(stored);
    assert!(stored.contains("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
    let mut state = AuthState::default();
    state.evolve(&changes).unwrap();
    for command in [user_grant("root", "root"), Command::Enable] {
        let changes = state.decide(&command, &hashing, &mut entropy).unwrap();
        state.evolve(&changes).unwrap();
    }
    assert!(state.authenticate("root", &Password::new("root"), &Tokens::default(), now()).is_ok());
}
