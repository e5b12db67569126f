//! A daemon in a directory of its own, and an engine that speaks to it in raw frames.

use kvd::Addresses;
use kvd::client::Client;
use kvd_block::image::{self, HeaderPage};
use kvd_block::{
    BlockState, ChainIdentity, Checksum, FilledBlock, HashChain, LayoutHandle, LayoutSpec, LeaseId, LoadGrant, NewBlock, RequestId,
    SequenceHash, SlotIndex, StoreGrant,
};
use kvd_proto::PROTOCOL_VERSION;
use kvd_proto::admin::{StatusReply, StatusRequest};
use kvd_proto::frame;
use kvd_proto::local::{Hello, HelloAnswer, Keys, Reply, Request, Role, ToDaemon, ToEngine, Welcome};
use kvd_shm::{Arena, Slot, fds};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory in which daemons run one after another.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Home {
        Home(TempDir::new().unwrap())
    }

    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.path().join("run/kvd.sock")
    }

    pub fn config(&self) -> PathBuf {
        self.0.path().join("kvd.toml")
    }

    /// Writes the configuration of a small daemon on free ports. `more` is added to it.
    pub fn write_config(&self, more: &str) {
        let [data, socket] = [self.data(), self.socket()].map(|path| path.display().to_string());
        let text = format!(
            "arena.bytes = \"32MiB\"\nnvme.path = \"{data}\"\nnvme.bytes = \"64MiB\"\nengine.socket = \"{socket}\"\n\
             admin.listen = \"127.0.0.1:0\"\nmetrics.listen = \"127.0.0.1:0\"\n\
             events.endpoint = \"tcp://127.0.0.1:0\"\nevents.replay_endpoint = \"tcp://127.0.0.1:0\"\n{more}\n"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// Starts a daemon and waits until it is ready.
    pub fn start(&self, arguments: &[&str]) -> Kvd {
        if !self.config().exists() {
            self.write_config("");
        }
        let mut child = self.command(arguments).stdout(Stdio::piped()).stderr(self.log()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("  events ") {
            assert_ne!(lines.read_line(&mut banner).unwrap(), 0, "kvd did not start:\n{}", self.journal());
        }
        let addresses = kvd::client::read_addresses(&self.data()).unwrap();
        Kvd { child, banner, addresses }
    }

    /// Runs a daemon that is expected to end by itself.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "kvd was expected to fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
        command.arg("serve").arg("--config").arg(self.config()).args(arguments).env_remove("KVD_SOCKET").env_remove("KVD_LOG");
        command
    }

    fn log(&self) -> std::fs::File {
        std::fs::OpenOptions::new().create(true).append(true).open(self.0.path().join("journal")).unwrap()
    }

    pub fn journal(&self) -> String {
        std::fs::read_to_string(self.0.path().join("journal")).unwrap_or_default()
    }

    /// Runs `kvctl` against the daemon of this directory.
    pub fn kvctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kvctl")).arg("--data-dir").arg(self.data()).args(arguments).output().unwrap()
    }
}

/// A running daemon; killed when dropped.
pub struct Kvd {
    pub child: Child,
    pub banner: String,
    pub addresses: Addresses,
}

impl Kvd {
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it cleanly.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.wait().success());
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        eventually("the daemon ends", || self.child.try_wait().unwrap())
    }

    pub fn with_client<T>(&self, work: impl AsyncFnOnce(Client) -> T) -> T {
        runtime().block_on(async { work(kvd::client::connect(&self.addresses.admin).await.unwrap()).await })
    }

    pub fn status(&self) -> StatusReply {
        self.with_client(async |mut client| client.status(StatusRequest {}).await.unwrap().into_inner())
    }

    pub fn counter(&self, name: &str) -> u64 {
        let status = self.status();
        status.counters.iter().find(|counter| counter.name == format!("kvd_{name}_total")).unwrap().value
    }

    pub fn http(&self, path: &str) -> String {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(&self.addresses.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: kvd\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Kvd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn layout() -> LayoutSpec {
    LayoutSpec {
        model: "test/model".into(),
        weights: "w1".into(),
        kv_dtype: "bfloat16".into(),
        block_tokens: 4,
        group: 0,
        attention: "full_attention".into(),
        geometry: "test".into(),
        ranks: 2,
        stripe_bytes: 5000,
    }
}

/// `count` blocks of the sequence that begins with token `first`.
pub fn sequence(first: u32, count: u32) -> Vec<NewBlock> {
    let mut chain = HashChain::new(4, &ChainIdentity::default());
    let block = |index: u32| {
        let tokens: Vec<u32> = (0..4).map(|i| first + index * 4 + i).collect();
        let link = chain.push(&tokens, &[]);
        NewBlock {
            hash: link.hash,
            parent: link.parent,
            local: link.local,
            position: link.position,
            tokens: tokens.iter().flat_map(|token| token.to_le_bytes()).collect(),
        }
    };
    (0..count).map(block).collect()
}

pub fn hashes(blocks: &[NewBlock]) -> Vec<SequenceHash> {
    blocks.iter().map(|block| block.hash).collect()
}

/// What the engine stores for a block: bytes that follow from its name.
pub fn stripe(hash: SequenceHash, rank: u16) -> Vec<u8> {
    (0..5000u32).map(|i| hash.0[i as usize % 16] ^ (i / 16) as u8 ^ rank as u8).collect()
}

/// Flips a bit in the image of the block named `hash`, `at` bytes into it. False when the slot file has no such image.
pub fn rot(slot_file: &Path, hash: SequenceHash, at: u64) -> bool {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(slot_file).unwrap();
    let mut page = [0; 4096];
    let mut start = 0;
    while file.read_exact_at(&mut page, start).is_ok() {
        if &page[..8] == b"kvdblock" && page[32..48] == hash.0 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, start + at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], start + at).unwrap();
            return true;
        }
        start += 4096;
    }
    false
}

/// One engine.
pub struct Engine {
    pub socket: UnixStream,
    pub welcome: Welcome,
    pub arena: Arc<Arena>,
    last: u64,
    /// Notices that came while something else was waited for.
    notices: Vec<Reply>,
}

pub fn hello(role: Role, engine: &str) -> Hello {
    let layouts = if role == Role::Control { vec![layout()] } else { vec![] };
    Hello { protocol: PROTOCOL_VERSION, role, engine: engine.into(), software: "test 1".into(), layouts }
}

/// Says hello and reads the answer, with the arena when there is one.
pub fn greet(socket: &Path, hello: &impl serde::Serialize) -> (UnixStream, HelloAnswer, Option<Arena>) {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    frame::write(&mut &stream, hello).unwrap();
    let mut prefix = [0; frame::PREFIX_BYTES];
    let mut received = fds::receive_with_fds(&stream, &mut prefix).unwrap();
    let mut body = vec![0; frame::body_bytes(&prefix).unwrap()];
    received.extend(fds::receive_with_fds(&stream, &mut body).unwrap());
    (stream, frame::decode(&body).unwrap(), received.pop().map(|fd| Arena::from_fd(fd).unwrap()))
}

impl Engine {
    pub fn connect(socket: &Path, name: &str) -> Engine {
        Engine::connect_as(socket, Role::Control, name)
    }

    pub fn connect_as(socket: &Path, role: Role, name: &str) -> Engine {
        let (socket, answer, arena) = greet(socket, &hello(role, name));
        let HelloAnswer::Welcome(welcome) = answer else { panic!("{answer:?}") };
        Engine { socket, welcome, arena: Arc::new(arena.unwrap()), last: 0, notices: Vec::new() }
    }

    pub fn layout(&self) -> LayoutHandle {
        self.welcome.layouts[0]
    }

    pub fn ask(&mut self, body: Request) -> Reply {
        self.last += 1;
        frame::write(&mut &self.socket, &ToDaemon { id: RequestId(self.last), body }).unwrap();
        loop {
            let message: ToEngine = frame::read(&mut &self.socket).unwrap();
            if message.id.0 == self.last {
                return message.body;
            }
            self.notices.push(message.body);
        }
    }

    pub fn lookup(&mut self, blocks: &[NewBlock]) -> Vec<BlockState> {
        let keys = Keys::from_hashes(&hashes(blocks));
        let reply = self.ask(Request::Lookup { layout: self.layout(), keys, until_miss: false });
        let Reply::Found { states } = reply else { panic!("{reply:?}") };
        states.into_iter().map(|byte| BlockState::from_byte(byte).unwrap()).collect()
    }

    pub fn prepare_store(&mut self, blocks: &[NewBlock]) -> (LeaseId, Vec<StoreGrant>) {
        let reply = self.ask(Request::PrepareStore { layout: self.layout(), blocks: blocks.to_vec() });
        let Reply::StoreLease { lease, grants } = reply else { panic!("{reply:?}") };
        (lease, grants)
    }

    /// Stores all blocks, each of which must be granted a slot.
    pub fn store(&mut self, blocks: &[NewBlock]) {
        let (lease, grants) = self.prepare_store(blocks);
        let fill = |(index, (block, grant)): (usize, (&NewBlock, &StoreGrant))| {
            let StoreGrant::Write(at) = grant else { panic!("block {index}: {grant:?}") };
            let slot = self.slot(*at);
            let stripes = (0..2).map(|rank| {
                let bytes = stripe(block.hash, rank);
                slot.write_at(layout().stripe_offset(rank), &bytes);
                Checksum::of(&bytes)
            });
            FilledBlock { index: index as u32, stripes: stripes.collect() }
        };
        let filled: Vec<FilledBlock> = blocks.iter().zip(&grants).enumerate().map(fill).collect();
        assert_eq!(self.ask(Request::CompleteStore { lease, filled }), Reply::Done);
    }

    fn slot(&self, at: SlotIndex) -> Slot {
        Slot::new(self.arena.clone(), at, layout().slot_bytes())
    }

    /// Loads all blocks and compares every byte. Panics when one is missing or wrong.
    pub fn load(&mut self, blocks: &[NewBlock]) {
        let keys = Keys::from_hashes(&hashes(blocks));
        let reply = self.ask(Request::PrepareLoad { layout: self.layout(), keys, deadline_ms: 0 });
        let Reply::LoadLease { lease, mut grants } = reply else { panic!("{reply:?}") };
        while grants.contains(&LoadGrant::Staging) {
            let notice = self.notices.pop().unwrap_or_else(|| frame::read::<ToEngine>(&mut &self.socket).unwrap().body);
            let Reply::Staged { lease: of, ready, missing } = notice else { panic!("{notice:?}") };
            assert_eq!((of, missing), (lease, vec![]), "blocks are missing");
            ready.into_iter().for_each(|(index, slot)| grants[index as usize] = LoadGrant::Ready(slot));
        }
        for (block, grant) in blocks.iter().zip(&grants) {
            let LoadGrant::Ready(at) = grant else { panic!("{grant:?}") };
            self.check(block, *at);
        }
        assert_eq!(self.ask(Request::CompleteLoad { lease, corrupt: vec![] }), Reply::Done);
    }

    fn check(&self, block: &NewBlock, at: SlotIndex) {
        let slot = self.slot(at);
        let page: HeaderPage = slot.read_header();
        image::verify_page(&page).unwrap();
        assert_eq!(image::sequence_hash(&page), block.hash);
        for rank in 0..2 {
            let bytes = slot.read_at(layout().stripe_offset(rank), 5000);
            assert!(bytes == stripe(block.hash, rank), "wrong bytes in rank {rank}");
            assert_eq!(Checksum::of(&bytes), image::stripe_checksum(&page, rank));
        }
    }

    /// True once the daemon has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        matches!((&self.socket).read(&mut [0; 64]), Ok(0))
    }
}
