//! `kvd bench` as a person runs it: the real program, a real daemon under it, real files.

mod support;

mod documented;
mod ends;
mod refusals;
mod whole;
