//! What the processor offers, made safe.
