//! Bytes to AMQP 0-9-1 frames and back.
