"""One file a chapter, found by name; its ``CHAPTER`` says what is attacked and how it is hardened."""
