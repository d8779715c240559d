"""What the property tests share: how thoroughly they look, and texts of the nasty kind."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# No deadline: a slow machine is not a bug. No database: a run leaves nothing behind.
thorough = settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
brief = settings(thorough, max_examples=60)

# What the tokeniser's rules are about, so that random texts meet them, and what breaks programs.
TELLING = (
    *"aAbéßñ.'’ʼntsm@#-_/:;)(<3>!?…&,1+*=~`\" \t\n",
    *"\u00a0\u00ad\u200b\u200c\u200d\u200e\u200f\u202e\u2066\u2069\u2028\u3000\ufeff\x00\x1c\x85",
    *"\u0301\u0651\ufe0f\u20e3王カ김משع。！」👩🏽🇫🇷❤①½ﬁＡ\ud800\udfff\U0002fffe\U000e0067\U0010ffff",
    "n't", "'s", "http://", "www.", "a@b.c", "Mr.", "U.S.", "J.R.R.", "...",
)  # fmt: skip
any_text = st.lists(st.sampled_from(TELLING) | st.characters(exclude_categories=()), max_size=40).map(
    "".join
)
any_token = any_text | st.sampled_from(["", " ", "\n", "<PAD>", "<UNK>", "-LRB-"])
