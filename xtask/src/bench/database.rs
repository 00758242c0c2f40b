//! The content of the benchmark's etcd: generated objects like those of a busy Kubernetes, the same in every run.
//!
//! Half are JSON, like custom resources. The other half resemble protobuf, like built-in resources: a prefix, then tags,
//! lengths and mostly text. They are put through etcd's HTTP gateway, a hundred in a transaction.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt::{self, Write};

/// The number of puts in a transaction. etcd accepts at most 128 operations.
const PUTS: u64 = 100;
/// The size of the random part of an object of [`Content::Random`], in percent of its other part.
const RANDOM_PERCENT: usize = 55;
const RESOURCES: [&str; 6] =
    ["pods", "replicasets", "endpointslices", "certificates", "configmaps", "events"];
const WORDS: [&str; 16] = [
    "app.kubernetes.io/name",
    "controller-revision-hash",
    "readinessProbe",
    "containerStatuses",
    "volumeMounts",
    "lastTransitionTime",
    "terminationGracePeriodSeconds",
    "f:conditions",
    "ownerReferences",
    "imagePullPolicy",
    "kube-controller-manager",
    "initialDelaySeconds",
    "serviceAccountToken",
    "preemptionPolicy",
    "hostIP",
    "resourceVersion",
];

/// The kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Objects like those of Kubernetes. gzip compresses the database 5.5 : 1.
    Kubernetes,
    /// The same with random tokens, hashes and certificates in them. gzip compresses the database 2.8 : 1.
    Random,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubernetes => "objects",
            Self::Random => "random tokens",
        })
    }
}

/// Fills a database with objects.
pub struct Filler {
    content: Content,
    agent: ureq::Agent,
    url: String,
    next: u64,
}

impl Filler {
    /// Creates a filler for the etcd at `endpoint`.
    pub fn new(endpoint: &str, content: Content) -> Self {
        Self::starting_at(endpoint, content, 0)
    }

    /// Creates a filler that begins with object number `next`.
    pub fn starting_at(endpoint: &str, content: Content, next: u64) -> Self {
        Self { content, agent: ureq::Agent::new_with_defaults(), url: format!("{endpoint}/v3/kv/txn"), next }
    }

    /// Puts more objects, with `bytes` bytes of values in total.
    pub fn add(&mut self, bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            crate::interrupt::check()?;
            let mut body = String::from(r#"{"success":["#);
            for number in self.next..self.next + PUTS {
                done += put(&mut body, number, self.content);
            }
            body.pop();
            body.push_str("]}");
            self.commit(&body)?;
            self.next += PUTS;
        }
        Ok(())
    }

    fn commit(&self, body: &str) -> Result<()> {
        let answer = self.agent.post(&self.url).send(body).context("putting objects into etcd")?;
        let answer = answer.into_body().read_to_string().context("reading etcd's answer")?;
        ensure!(answer.contains(r#""succeeded":true"#), "etcd did not accept the objects: {answer}");
        Ok(())
    }
}

/// Appends the request to put object `number` to `body`. Returns the size of its value in bytes.
fn put(body: &mut String, number: u64, content: Content) -> u64 {
    let mut random = Random(number);
    let resource = RESOURCES[(number % 6) as usize];
    let key = format!("/registry/{resource}/namespace-{}/{resource}-{number:08x}", number % 97);
    let mut value =
        if number.is_multiple_of(2) { json(&mut random, &key) } else { protobuf(&mut random, &key) };
    if content == Content::Random {
        let length = value.len();
        add_secrets(&mut value, length * RANDOM_PERCENT / 100, &mut random);
    }
    let (name, data) = (BASE64.encode(key), BASE64.encode(&value));
    let _ = write!(body, r#"{{"requestPut":{{"key":"{name}","value":"{data}"}}}},"#);
    value.len() as u64
}

/// Appends tokens and certificates (base64) and hashes (hexadecimal digits), `length` characters in total.
fn add_secrets(value: &mut Vec<u8>, length: usize, random: &mut Random) {
    let end = value.len() + length;
    while value.len() < end {
        let bytes: Vec<u8> = (0..12).flat_map(|_| random.next().to_le_bytes()).collect();
        let text = match random.below(3) {
            0 => bytes[..32].iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => BASE64.encode(&bytes),
        };
        value.extend_from_slice(text.as_bytes());
        value.push(b'\n');
    }
    value.truncate(end);
}

fn json(random: &mut Random, key: &str) -> Vec<u8> {
    let mut text =
        format!(r#"{{"kind":"Object","metadata":{{"name":"{key}","uid":"{}"}},"spec":{{"#, random.uuid());
    for part in 0..20 + random.below(40) {
        let (word, other) = (random.word(), random.word());
        let _ = match random.below(5) {
            0 => write!(text, r#""{word}-{part}":{{"uid":"{}","{other}":true}},"#, random.uuid()),
            1 => write!(text, r#""{word}-{part}":{},"#, random.below(100_000)),
            2 => write!(
                text,
                r#""{word}-{part}":"10.{}.{}.{}","#,
                random.below(4),
                random.below(250),
                random.below(250)
            ),
            _ => write!(text, r#""{word}-{part}":[{{"name":"{other}","value":"{word}"}}],"#),
        };
    }
    text.push_str(r#""replicas":1},"status":{"phase":"Running"}}"#);
    text.into_bytes()
}

fn protobuf(random: &mut Random, key: &str) -> Vec<u8> {
    let mut bytes = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod".to_vec();
    field(&mut bytes, 1, key.as_bytes());
    for _ in 0..25 + random.below(60) {
        let tag = random.below(15) as u8;
        match random.below(5) {
            0 => field(&mut bytes, tag, random.uuid().as_bytes()),
            1 => bytes.extend([tag << 3, 0x80 | (random.next() as u8), (random.next() as u8) & 0x7f]),
            2 => field(&mut bytes, tag, &random.next().to_le_bytes()),
            _ => field(&mut bytes, tag, format!("{}={}", random.word(), random.word()).as_bytes()),
        }
    }
    bytes
}

/// Appends a length-delimited field.
fn field(bytes: &mut Vec<u8>, tag: u8, content: &[u8]) {
    bytes.extend([tag << 3 | 2, content.len() as u8]);
    bytes.extend_from_slice(content);
}

/// SplitMix64, a generator with the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(16) as usize]
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!("{:08x}-{:04x}-{:04x}-{:016x}", high >> 32, high >> 16 & 0xffff, high & 0xffff, low)
    }
}
