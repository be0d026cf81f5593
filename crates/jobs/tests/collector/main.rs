//! Nothing referenced is ever collected, nor what a backup under way mentions, and all else goes in the end: by random
//! storms, and by every way in which one actor comes between two steps of another.

mod clocks;
mod interleaved;
mod pausing;
mod stalling;
mod storm;
mod world;
