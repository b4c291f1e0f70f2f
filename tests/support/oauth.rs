//! Somebody who issues tokens, and the server that publishes its keys.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring as provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::tls::Pair;

/// A key of tests alone.
const RSA_KEY: &[u8] = include_bytes!("../../crates/mamba-auth/src/oauth/test-rsa.pk8");
/// The shared secret of tests alone.
pub(crate) const SECRET: &[u8; 32] = b"a secret of at least 32 octets!!";

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Somebody who signs tokens.
pub(crate) struct Issuer {
    id: &'static str,
    key: Signing,
}

enum Signing {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
    Secret,
}

impl Issuer {
    /// With a fresh key on P-256, for ES256.
    pub(crate) fn ec(id: &'static str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self {
            id,
            key: Signing::Ec(Box::new(pair)),
        }
    }

    /// With the RSA key of tests, for RS256.
    pub(crate) fn rsa(id: &'static str) -> Self {
        let pair = RsaKeyPair::from_pkcs8(RSA_KEY).unwrap();
        Self {
            id,
            key: Signing::Rsa(Box::new(pair)),
        }
    }

    /// With the shared secret, for HS256.
    pub(crate) const fn secret(id: &'static str) -> Self {
        Self {
            id,
            key: Signing::Secret,
        }
    }

    const fn algorithm(&self) -> &'static str {
        match self.key {
            Signing::Ec(_) => "ES256",
            Signing::Rsa(_) => "RS256",
            Signing::Secret => "HS256",
        }
    }

    /// What others need to verify its tokens.
    pub(crate) fn jwk(&self) -> Value {
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        match &self.key {
            Signing::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "x": text(x), "y": text(y)})
            }
            Signing::Rsa(pair) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "kid": self.id, "n": text(&public.n), "e": text(&public.e)})
            }
            Signing::Secret => json!({"kty": "oct", "kid": self.id, "k": text(SECRET)}),
        }
    }

    /// A public key as PEM, of an EC key.
    pub(crate) fn pem(&self) -> String {
        let Signing::Ec(pair) = &self.key else {
            panic!("only EC keys are written as PEM here")
        };
        // SubjectPublicKeyInfo of a point on P-256 (RFC 5480), up to the point.
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let der = [&head[..], pair.public_key().as_ref()].concat();
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// A token with these claims beside the usual ones: `bob`, for `mq`, valid for an hour.
    pub(crate) fn token(&self, more: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"});
        self.token_with(&header, more)
    }

    /// The same with another header.
    pub(crate) fn token_with(&self, header: &Value, more: &Value) -> String {
        let mut claims = json!({"sub": "bob", "aud": ["mq"], "exp": now() + 3600, "scope": ""});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(&claims));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Signing::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signing::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Signing::Secret => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
                hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }
}

/// The scopes of somebody who may do everything in every virtual host.
pub(crate) const ALL: &str = "mq.configure:*/* mq.write:*/* mq.read:*/*";

/// A JSON Web Key Set of these issuers' keys.
pub(crate) fn key_set(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Publishes keys over HTTP or HTTPS.
pub(crate) struct KeyServer {
    pub(crate) address: SocketAddr,
    /// Status line and body of every answer.
    answer: Arc<Mutex<(&'static str, String)>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    pub(crate) fn start(keys: String, pair: Option<&Pair>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(("200 OK", keys))),
            asked: Arc::default(),
        };
        let acceptor = pair.map(|pair| {
            let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
            let builder =
                ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap();
            let config = builder.with_no_client_auth().with_single_cert(chain, key);
            TlsAcceptor::from(Arc::new(config.unwrap()))
        });
        let (answer, asked) = (Arc::clone(&this.answer), Arc::clone(&this.asked));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let (answer, acceptor) = (answer.lock().clone(), acceptor.clone());
                    tokio::spawn(async move {
                        match acceptor {
                            None => reply(stream, answer).await,
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    reply(stream, answer).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        this
    }

    /// What it answers from now on.
    pub(crate) fn publish(&self, status: &'static str, keys: String) {
        *self.answer.lock() = (status, keys);
    }

    /// How often it was connected to.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, (status, body): (&str, String)) {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut octet).await {
            Ok(1) if head.len() < 8192 => head.push(octet[0]),
            _ => return,
        }
    }
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
