"""The publisher's tool: keys, TUF repositories, releases; `tools/bundle` is its command line.

It runs on a publisher's machine, never on a box, and may import `appliance`.
"""
