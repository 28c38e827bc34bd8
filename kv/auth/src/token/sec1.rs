//! Private keys of elliptic curves as `openssl ecparam -genkey` writes them (SEC 1, `EC PRIVATE KEY`), which etcd reads
//! and the library for web tokens doesn't: wrapped into the form that it reads (PKCS #8).

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEGIN: &str = "-----BEGIN EC PRIVATE KEY-----";
const END: &str = "-----END EC PRIVATE KEY-----";

/// DER of the object ids of the curves P-256 and P-384, and of "a key on an elliptic curve".
const CURVES: [&[u8]; 2] =
    [&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]];
const EC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];

/// The key in PKCS #8, if the file has one in SEC 1 that names one of the curves. Whether it is sound is seen when it
/// is used.
pub(super) fn to_pkcs8(pem: &[u8]) -> Option<Vec<u8>> {
    let (_, rest) = std::str::from_utf8(pem).ok()?.split_once(BEGIN)?;
    let (body, _) = rest.split_once(END)?;
    let body: String = body.split_ascii_whitespace().collect();
    let key = STANDARD.decode(body).ok()?;
    let curve = CURVES.into_iter().find(|curve| key.windows(curve.len()).any(|part| part == *curve))?;
    let algorithm = der(SEQUENCE, &[EC_KEY, curve].concat())?;
    der(SEQUENCE, &[VERSION_0, &algorithm, &der(OCTETS, &key)?].concat())
}

fn der(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        0x100..=0xffff => vec![tag, 0x82, (length >> 8) as u8, length as u8],
        _ => return None,
    };
    Some([&head, content].concat())
}
