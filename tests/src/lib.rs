//! Tests against software nobody here wrote.

#![forbid(unsafe_code)]
