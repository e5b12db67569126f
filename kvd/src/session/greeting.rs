//! The first message of a connection, read from someone who may be anybody.

use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::frame::{self, FrameError, PREFIX_BYTES};
use kvd_proto::local::{Hello, Refusal, Role};
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use std::fmt;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Sixty-four layouts of 2 KiB, and room.
const MAX_HELLO_BYTES: usize = 256 << 10;
const MAX_LAYOUTS: usize = 64;
use super::engines::MAX_NAME_BYTES;

/// What the other side turned out to be.
#[derive(Debug)]
pub enum Greeting {
    /// An engine or a daemon of our protocol.
    Hello(Hello),
    /// Ours, but it cannot be served.
    Refused(Refusal),
    /// Not ours, or not finished in time: nothing to answer to.
    Stranger(String),
}

/// Reads a hello, for at most five seconds and a quarter of a MiB.
pub async fn read_hello(socket: &mut (impl AsyncRead + Unpin)) -> Greeting {
    match timeout(HELLO_TIMEOUT, read_body(socket)).await {
        Err(_) => Greeting::Stranger("it did not say hello in time".into()),
        Ok(Err(error)) => Greeting::Stranger(error.to_string()),
        Ok(Ok(body)) => judge(&body),
    }
}

async fn read_body(socket: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    // The magic first: a stranger may send less than a whole prefix and wait.
    socket.read_exact(&mut prefix[..4]).await?;
    if prefix[..4] != frame::MAGIC {
        frame::body_bytes(&prefix)?;
    }
    socket.read_exact(&mut prefix[4..]).await?;
    let bytes = frame::body_bytes(&prefix)?;
    if bytes > MAX_HELLO_BYTES {
        return Err(FrameError::TooLong(bytes));
    }
    let mut body = vec![0; bytes];
    socket.read_exact(&mut body).await?;
    Ok(body)
}

fn judge(body: &[u8]) -> Greeting {
    let theirs = match frame::decode::<LeadingVersion>(body) {
        Ok(LeadingVersion(version)) => version,
        Err(error) => return Greeting::Stranger(error.to_string()),
    };
    if theirs != PROTOCOL_VERSION {
        return refused(format!(
            "the engine's connector speaks version {theirs} of kvd's local protocol and this kvd speaks version {PROTOCOL_VERSION}: \
             install the connector and the daemon from the same release"
        ));
    }
    match frame::decode::<Hello>(body) {
        Ok(hello) => check(hello),
        Err(error) => refused(format!("the hello cannot be read: {error}")),
    }
}

fn check(hello: Hello) -> Greeting {
    let too_long = |what: &str| refused(format!("the {what} is longer than {MAX_NAME_BYTES} bytes"));
    match &hello {
        _ if hello.engine.is_empty() && hello.role != Role::Takeover => refused("the engine has no name".into()),
        _ if hello.engine.len() > MAX_NAME_BYTES => too_long("engine's name"),
        _ if hello.software.len() > MAX_NAME_BYTES => too_long("software's name"),
        _ if hello.layouts.len() > MAX_LAYOUTS => refused(format!("{} layouts, at most {MAX_LAYOUTS} are allowed", hello.layouts.len())),
        _ => match hello.layouts.iter().find_map(|layout| layout.validate().err()) {
            Some(error) => refused(error.to_string()),
            None => Greeting::Hello(hello),
        },
    }
}

fn refused(why: String) -> Greeting {
    Greeting::Refused(Refusal { why, protocol: PROTOCOL_VERSION })
}

/// The first field of any version's hello; what follows may have any shape.
struct LeadingVersion(u16);

impl<'de> Deserialize<'de> for LeadingVersion {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<LeadingVersion, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = LeadingVersion;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a hello that begins with a protocol version")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<LeadingVersion, A::Error> {
                let version = fields.next_element()?.ok_or_else(|| serde::de::Error::custom("an empty hello"))?;
                while fields.next_element::<IgnoredAny>()?.is_some() {}
                Ok(LeadingVersion(version))
            }
        }
        input.deserialize_seq(First)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(protocol: u16) -> Hello {
        Hello { protocol, role: Role::Control, engine: "e".into(), software: "s".into(), layouts: vec![] }
    }

    fn greet(bytes: &[u8]) -> Greeting {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(read_hello(&mut &*bytes))
    }

    #[test]
    fn a_hello_is_read() {
        assert!(matches!(greet(&frame::encode(&hello(PROTOCOL_VERSION)).unwrap()), Greeting::Hello(_)));
    }

    #[test]
    fn another_version_is_refused_naming_both() {
        let Greeting::Refused(refusal) = greet(&frame::encode(&(77u16, "shape of the future")).unwrap()) else { panic!() };
        assert!(refusal.why.contains("version 77") && refusal.why.contains(&format!("version {PROTOCOL_VERSION}")));
    }

    #[test]
    fn an_http_client_is_a_stranger() {
        assert!(matches!(greet(b"GET / HTTP/1.1\r\n\r\n"), Greeting::Stranger(why) if why.contains("does not speak")));
    }

    #[test]
    fn a_nameless_engine_is_refused() {
        let nameless = Hello { engine: String::new(), ..hello(PROTOCOL_VERSION) };
        assert!(matches!(greet(&frame::encode(&nameless).unwrap()), Greeting::Refused(_)));
    }
}
