//! The program as its users see it: a process, its HTTP and gRPC addresses, and publishers that speak as engines do.

mod bad_input;
mod decide;
mod discovery;
mod documents;
mod embedded;
mod grpc;
mod members;
mod query;
mod restart;
mod support;
