"""Keys of metadata with which leaders hand calls on to one another."""

from __future__ import annotations

#: Marks a forwarded call; its value is the peer of the caller, for people. What a caller sets is never handed on.
FORWARDED = "gowork-forwarded"
#: Whose call is forwarded: ROLE[+ROLE…]/NAME. Only a leader is believed.
CALLER_KEY = "gowork-caller"
