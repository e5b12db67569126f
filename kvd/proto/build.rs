//! Compiles the gRPC definitions, when they are wanted, without needing `protoc` on the machine.

fn main() {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "admin")]
    compile();
}

#[cfg(feature = "admin")]
fn compile() {
    let definitions = protox::compile(["kvd/admin/v1/admin.proto"], ["proto"]).expect("the definitions compile");
    tonic_prost_build::configure().compile_fds(definitions).expect("the generated code can be written");
}
