//! One replica on its machine.
