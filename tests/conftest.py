"""Settings for all tests."""

import signal

from hypothesis import settings

settings.register_profile("sherd", deadline=None, print_blob=True)
settings.load_profile("sherd")

# What a shell starts in the background ignores Ctrl-C, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
