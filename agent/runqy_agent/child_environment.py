"""What children of the agent inherit of its environment: one list of names for each kind of child, and nothing else.

The agent's environment may hold secrets under any name (``${FLEET_KEY}`` in its configuration). So names are allowed,
never forbidden: Git, the build tools, the interpreter and nvidia-smi when they are asked something, and the supervised
process each get what they are known to need. docs/configuration.md lists it all.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


@dataclass(frozen=True)
class Names:
    """Names of variables: whole ones, and patterns in which ``*`` stands for anything."""

    whole: frozenset[str]
    patterns: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        if name in self.whole:
            return True
        return not is_secret(name) and any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def __or__(self, other: Names) -> Names:
        return Names(self.whole | other.whole, self.patterns + other.patterns)


def _names(text: str) -> Names:
    words = text.split()
    return Names(frozenset(word for word in words if "*" not in word), tuple(word for word in words if "*" in word))


EVERY_CHILD = _names("""
    PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TMPDIR XDG_CACHE_HOME XDG_RUNTIME_DIR LD_LIBRARY_PATH
    http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
""")
"""Where things are, which language, and how the network is reached."""
ACCELERATORS = _names("CUDA_* NVIDIA_* NCCL_* HIP_* ROCR_* OMP_* MKL_*")
"""Which GPUs and cores there are, and where their toolkits."""
PROCESS = EVERY_CHILD | ACCELERATORS | _names("HF_* HUGGINGFACE_* TRANSFORMERS_* TORCH_* PYTORCH_*")
"""The supervised process: besides, where models are cached and how PyTorch behaves."""
GIT = EVERY_CHILD | _names("""
    GIT_SSL_CAINFO GIT_SSL_CAPATH GIT_SSL_CERT GIT_SSL_KEY GIT_SSL_CIPHER_LIST GIT_SSL_VERSION GIT_SSL_NO_VERIFY
    GIT_PROXY_SSL_CAINFO GIT_PROXY_SSL_CERT GIT_PROXY_SSL_KEY GIT_HTTP_USER_AGENT GIT_HTTP_LOW_SPEED_LIMIT
    GIT_HTTP_LOW_SPEED_TIME GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_CONFIG_NOSYSTEM GIT_EXEC_PATH
    SSH_AUTH_SOCK XDG_CONFIG_HOME
""")
"""Git: besides, how it trusts servers, and the files of its own settings."""
BUILD = (
    EVERY_CHILD
    | ACCELERATORS
    | _names("""
    PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS PIP_TRUSTED_HOST PIP_CERT PIP_CLIENT_CERT PIP_PROXY
    PIP_TIMEOUT PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_PREFER_BINARY PIP_ONLY_BINARY
    PIP_NO_BINARY PIP_PRE PIP_CONSTRAINT PIP_BUILD_CONSTRAINT PIP_NO_BUILD_ISOLATION PIP_USE_FEATURE
    UV_INDEX UV_DEFAULT_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_INDEX_STRATEGY UV_INDEX_*_USERNAME UV_INDEX_*_PASSWORD
    UV_NO_INDEX UV_FIND_LINKS UV_INSECURE_HOST UV_NATIVE_TLS UV_SYSTEM_CERTS UV_OFFLINE UV_TORCH_BACKEND
    UV_HTTP_TIMEOUT UV_REQUEST_TIMEOUT UV_HTTP_CONNECT_TIMEOUT UV_HTTP_RETRIES UV_CONCURRENT_DOWNLOADS
    UV_CONCURRENT_BUILDS UV_CONCURRENT_INSTALLS UV_CACHE_DIR UV_NO_CACHE UV_LINK_MODE UV_PRERELEASE UV_CONSTRAINT
    UV_BUILD_CONSTRAINT UV_NO_BINARY UV_NO_BUILD UV_NO_BUILD_ISOLATION
    CC CXX CPP AR AS LD NM RANLIB STRIP CFLAGS CXXFLAGS CPPFLAGS LDFLAGS LDSHARED ARCHFLAGS FC F77 F90 FFLAGS
    CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH PKG_CONFIG PKG_CONFIG_PATH PKG_CONFIG_LIBDIR
    MAX_JOBS MAKEFLAGS NPY_NUM_BUILD_JOBS CMAKE_ARGS CMAKE_GENERATOR CMAKE_PREFIX_PATH CMAKE_BUILD_PARALLEL_LEVEL
    CARGO_HOME CARGO_BUILD_JOBS RUSTUP_HOME RUSTUP_TOOLCHAIN RUSTFLAGS CCACHE_DIR SOURCE_DATE_EPOCH
    ROCM_HOME ROCM_PATH TORCH_CUDA_ARCH_LIST FORCE_CUDA NVCC_PREPEND_FLAGS NVCC_APPEND_FLAGS
    GIT_SSL_CAINFO GIT_SSL_CAPATH NETRC
""")
)
"""uv, pip, build backends and Poetry: besides, the index, and compilers. None says where things are installed."""

NO_PROMPTS = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",  # set and empty: Git tries no other program
    "SSH_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GCM_INTERACTIVE": "never",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30",
    "HGPLAIN": "1",
    "PIP_NO_INPUT": "1",
    "PIP_KEYRING_PROVIDER": "disabled",
    "UV_KEYRING_PROVIDER": "disabled",
    "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    "POETRY_NO_INTERACTION": "1",
}
"""Makes a child fail that would ask somebody: nobody is there."""

_AGENTS_OWN = re.compile(
    r"RUNQY_.*|CREDENTIALS_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_(PID|USEC)|LISTEN_(FDS|FDNAMES|PID)|INVOCATION_ID"
    r"|JOURNAL_STREAM|VIRTUAL_ENV|PYTHONHOME|PYTHONPATH|SUPERVISED_.*",
    re.IGNORECASE,
)
_SECRET_WORDS = re.compile(
    r"(.*_)?(API_?KEY|ACCESS_?KEY|KEY|KEYS|PAT|PASS|PASSWD|PASSWORD|PASSPHRASE|PW|SECRET|SECRETS|TOKEN|TOKENS|AUTH"
    r"|CREDENTIAL|CREDENTIALS|COOKIE|DSN)",
    re.IGNORECASE,
)
_INDEX_PASSWORD = re.compile(r"UV_INDEX_.*_PASSWORD")
_USERINFO = re.compile(r"https?://([^\s/@]+)@", re.IGNORECASE)
SHORTEST_SECRET = 4
"""Fewer characters are not blanked: too much else would be."""
_SURELY_SECRET = 8
"""A secret of fewer characters may be part of an innocent value."""


def is_secret(name: str) -> bool:
    """Whether a variable of this name is likely to hold a secret. A password for uv's index is what builds are for."""
    return bool(_SECRET_WORDS.fullmatch(name)) and not _INDEX_PASSWORD.fullmatch(name)


def inherit(names: Names, source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of these names; of the agent's own environment by default."""
    source = os.environ if source is None else source
    inherited = {name: value for name, value in source.items() if name in names}
    inherited.setdefault("PATH", os.defpath)
    return inherited


def passed(patterns: Iterable[str], secrets: Iterable[str], source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that an operator lets the supervised process have besides (``deployment.pass_env``).

    What belongs to the agent itself never is among them, also not through ``*``: its settings, its talk with systemd,
    and whatever holds one of its secrets.

    Args:
        patterns: names, or patterns with ``*`` and ``?``.
        secrets: the agent's.
        source: the environment to choose from; the agent's own by default.
    """
    source = os.environ if source is None else source
    patterns, secrets = list(patterns), [secret for secret in secrets if secret]
    return {
        name: value
        for name, value in source.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and not is_agents_own(name)
        and not _tells(value, secrets)
    }


def is_agents_own(name: str) -> bool:
    """Whether a variable is meant for the agent alone, whatever it holds."""
    return _AGENTS_OWN.fullmatch(name) is not None


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """What must be blanked in the output of a child with this environment: what stands before ``@`` in its URLs."""
    found = [value for name, value in environment.items() if _INDEX_PASSWORD.fullmatch(name)]
    for value in environment.values():
        for userinfo in _USERINFO.findall(value):
            user, colon, password = userinfo.partition(":")
            found += [userinfo, *([password, unquote(password)] if colon else [user, unquote(user)])]
    return [secret for secret in dict.fromkeys(found) if len(secret) >= SHORTEST_SECRET]


def _tells(value: str, secrets: Collection[str]) -> bool:
    """Whether a value is one of the secrets, holds one, or is a part of one."""
    return any(
        value == secret
        or (len(secret) >= _SURELY_SECRET and secret in value)
        or (len(value) >= _SURELY_SECRET and value in secret)
        for secret in secrets
    )
