"""What the supervised process finds in its environment: a short list, the author's variables and the vaults."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INHERITED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR",
        "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
        "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "LD_LIBRARY_PATH",
    }
)  # fmt: skip
INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "OMP_", "MKL_")

_REFUSED = re.compile(
    "|".join(
        (
            # The dynamic linker and the C library.
            *("LD_.*", "DYLD_.*", "GLIBC_.*", "GCONV_PATH", "LOCPATH", "NLSPATH", "HOSTALIASES", "RESOLV_HOST_CONF"),
            # Where programs and modules are found.
            *("PATH", "HOME", "VIRTUAL_ENV", "PYTHON.*", "CLASSPATH", "PERL.*", "RUBY.*", "GEM_(HOME|PATH)"),
            *("NODE_(OPTIONS|PATH)", "LUA_.*", "(_JAVA|JAVA_TOOL|JDK_JAVA)_OPTIONS"),
            # What a shell runs, or how it reads.
            *("SHELL", "SHELLOPTS", "BASHOPTS", "BASH_ENV", "BASH_FUNC_.*", "ENV", "IFS", "PS4", "PROMPT_COMMAND"),
            # Programs that Git and others start, and settings they read before their own.
            *("GIT_(SSH|SSH_COMMAND|ASKPASS|EXEC_PATH|CONFIG.*|PROXY_COMMAND|EDITOR|SEQUENCE_EDITOR|PAGER)",),
            *("GIT_(EXTERNAL_DIFF|TEMPLATE_DIR|DIR)", "SSH_ASKPASS", "EDITOR", "VISUAL", "PAGER", "BROWSER"),
            # Libraries that other libraries load by name.
            *("OPENSSL_(CONF|MODULES|ENGINES)", "CUDA_INJECTION.*", "NVTX_INJECTION.*", "NCCL_.*PLUGIN"),
            *("OMP_TOOL_LIBRARIES", "OCL_ICD_.*", "(VK|GTK|QT)_.*(PATH|MODULES|LAYERS|FILENAMES)"),
            # The talk between a service and systemd, which is the agent's.
            *("NOTIFY_SOCKET", "WATCHDOG_.*", "LISTEN_(PID|FDS|FDNAMES)", "CREDENTIALS_DIRECTORY"),
        )
    )
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def refused_names(vaults: Mapping[str, str]) -> list[str]:
    """Names of vault values that may not be set, because they would change how programs are loaded.

    Who may set a vault value need not be somebody who may say what is run. ``env_vars`` stand beside the start command,
    so nothing of them is refused. A value under a name of the agent's own settings (``RUNQY_API_KEY``) is set: it is
    the author's, and the agent's own never reaches the process.
    """
    return [name for name in vaults if not _NAME.fullmatch(name) or _REFUSED.fullmatch(name)]


def process_environment(
    virtualenv: Path | None,
    env_vars: Mapping[str, str],
    vaults: Mapping[str, str],
    *,
    inherited: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a supervised process. None of the agent's own secrets is in it.

    Args:
        virtualenv: its programs come first on PATH; None for none.
        env_vars: the deployment's variables; they win over what is inherited.
        vaults: name to secret value; they win over env_vars, but cannot set loader variables.
        inherited: the environment to choose from; the agent's own by default.
    """
    source = os.environ if inherited is None else inherited
    environment = {
        name: value for name, value in source.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    environment.setdefault("PATH", os.defpath)
    environment.setdefault("LANG", "C.UTF-8")
    # Printing reaches the log at once, and the protocol is UTF-8 whatever the host's locale is.
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    environment |= env_vars
    refused = set(refused_names(vaults))
    environment |= {name: value for name, value in vaults.items() if name not in refused}
    if virtualenv is not None:
        environment["VIRTUAL_ENV"] = str(virtualenv)
        environment["PATH"] = f"{virtualenv / 'bin'}{os.pathsep}{environment['PATH']}"
    return environment
