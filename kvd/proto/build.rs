//! Compiles the gRPC definitions, when they are wanted, without needing `protoc` on the machine.

fn main() {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "grpc")]
    compile();
}

#[cfg(feature = "grpc")]
fn compile() {
    let wanted = [(cfg!(feature = "admin"), "kvd/admin/v1/admin.proto"), (cfg!(feature = "router"), "kvd/router/v1/router.proto")];
    let files = wanted.iter().filter(|(wanted, _)| *wanted).map(|(_, file)| file);
    let definitions = protox::compile(files, ["proto"]).expect("the definitions compile");
    tonic_prost_build::configure().compile_fds(definitions).expect("the generated code can be written");
}
