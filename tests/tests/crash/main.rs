//! A process of a laboratory dies, or its disk fails, at every place where that can matter.

mod failures;
mod points;
