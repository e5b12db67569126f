//! The checkout keeps its own rules.

use xtask::repository::Repository;
use xtask::{graph, tidy};

#[test]
fn every_file_is_tidy() {
    let repository = Repository::find().expect("tests run inside the checkout");
    assert_eq!(tidy::violations(&repository).expect("git lists the files"), [""; 0]);
}

#[test]
fn every_dependency_is_where_it_belongs() {
    let repository = Repository::find().expect("tests run inside the checkout");
    assert_eq!(graph::violations(&repository).expect("cargo describes the workspace"), [""; 0]);
}
