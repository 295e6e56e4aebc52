//! System calls: TUN, UDP, timers, routes, signals. Knows buffers and addresses, not FEC.
