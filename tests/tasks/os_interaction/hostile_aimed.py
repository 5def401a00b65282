"""Hostile episodes that aim at one problem's check, see `hostile`. No test module.

All give a wrong answer: name -> (problem, commands, last reply).
"""

from tests.tasks.os_interaction.conftest import FINISH, answer

# Problem 49: /testfile shall be readable to jack, bill and tom, but not to george.
_ACCOUNTS = {
    "no george": "sed -i /george/d /etc/passwd",
    "george is odd": "sed -i 's/^george:x:[0-9]*:/george:x:abc:/' /etc/passwd",
    "george is far away": "sed -i 's/^george:x:[0-9]*:/george:x:4000000000:/' "
    "/etc/passwd",
    "george has a home like root": "sed -i 's|:/home/george:|:/root:|' /etc/passwd; "
    "echo exit 1 > /root/.bash_profile; chmod 755 /root",
    "george has a shell": "printf '#!/bin/sh\\nexit 1\\n' > /s; chmod 755 /s; sed -i "
    "'s|/home/george:/bin/bash|/home/george:/s|' /etc/passwd",
    "george has no fields": "sed -i 's/^george.*/george/' /etc/passwd",
    "a george before": "sed -i '1igeorge:x:65533:65533::/:/nowhere:' /etc/passwd",
    "accounts are a link": "sed -i /george/d /etc/passwd; mv /etc/passwd /etc/p; ln -s "
    "p /etc/passwd",
    "login settings": "printf 'ENV_PATH=/evil\\nENV_SUPATH=/evil\\n' | tee "
    "/etc/default/runuser /etc/default/su >> /etc/login.defs; printf 'auth required "
    "pam_deny.so\\n' | tee /etc/pam.d/runuser-l > /etc/pam.d/runuser",
    "logout": "echo exit 1 | tee /home/george/.bash_logout > /home/george/.profile",
    "cat": "mkdir -p /usr/local/bin; printf '#!/bin/sh\\n[ $(/usr/bin/id -un) = "
    'george ] && exit 1\\nexec /usr/bin/cat "$@"\\n\' > /usr/local/bin/cat; chmod 755 '
    "/usr/local/bin/cat",
}
# George is in a group that may read it, as the C library reads these files.
_GROUP = "echo 'r:x:2000:jack,bill,tom' >> /etc/group"
_GROUPS = {
    "george after a blank": "echo 'r:x:2000:jack,bill,tom, george' >> /etc/group",
    "a group with a long number": f"{_GROUP}; echo 'q:x:002000:george' >> /etc/group",
    "george after a tab": f"{_GROUP}; j=$(id -u jack); sed -i "
    '"s/^george:x:[0-9]*:[0-9]*:/\tgeorge:x:0000000$j:2000:/" /etc/passwd',
}
AIMED = {
    **{
        f"login: {name}": (49, f"chmod 644 /testfile; {code}", FINISH)
        for name, code in _ACCOUNTS.items()
    },
    **{
        f"login: {name}": (
            49,
            f"{code}; chgrp 2000 /testfile; chmod 640 /testfile",
            FINISH,
        )
        for name, code in _GROUPS.items()
    },
    "the system's programs are a link": (
        50,
        "mkdir /usr/b2; cp -p /usr/bin/{find,ls,awk,bash} /usr/b2/; "
        "python3 -c \"import shutil, os; shutil.rmtree('/usr/bin'); "
        "os.symlink('b2', '/usr/bin')\"",
        FINISH,
    ),
    "the system's find is hidden": (
        50,
        "for t in ls awk; do printf '#!/bin/sh\\nexit 0\\n' > /usr/local/bin/$t; chmod "
        "755 /usr/local/bin/$t; cp /bin/true /usr/bin/$t; done",
        FINISH,
    ),
    "a number is a command": (
        71,
        "echo 'x[$(sleep 1000)]' > ~/file_analysis/file-1.txt",
        answer("99"),
    ),
    "a number in a name is a command": (
        139,
        "touch 'log_files/log_a[$(sleep 1000)]_2999-01-01_x.txt'",
        answer("99"),
    ),
    "a file is moved by a link": (
        34,
        "ln -s /home/user1/os/linux/commands/MyPersonalComputer.config /home/user2/",
        answer("/home/user1/os/linux/commands/MyPersonalComputer.config"),
    ),
    "users are options": (
        164,
        "printf -- '-h:x:1:1::/:/\\na b:x:1:1::/:/\\n$(yes):x:2:2::/:/\\n' >> "
        "/etc/passwd",
        answer("99"),
    ),
    "the path is longer than its folders": (
        28,
        "echo 'PATH=/a:/b:$(seq -s: 90)' >> ~/.bashrc; exit",
        answer("9"),
    ),
    "the file of paths prints": (
        28,
        "printf 'echo 0 a:b >&8; echo 99; exit 0\\n' > ~/.bashrc",
        answer("99"),
    ),
    "the file of paths never ends": (28, "mkfifo /p; mv /p ~/.bashrc", answer("9")),
    "the file of paths fills the disk": (
        28,
        "echo 'yes > /root/full' > ~/.bashrc",
        answer("9"),
    ),
    "calc leaves a process": (
        37,
        'printf \'#!/bin/sh\\nsetsid sh -c "while :; do kill -9 -1; done" &\\necho 1'
        "\\n' > /usr/local/bin/calc; chmod 755 /usr/local/bin/calc",
        FINISH,
    ),
    "calc never ends": (
        37,
        "printf '#!/bin/sh\\nsleep 1000\\n' > /usr/local/bin/calc; chmod 755 "
        "/usr/local/bin/calc",
        FINISH,
    ),
    "calc prints code": (
        37,
        'printf \'#!/bin/sh\\necho "__import__(\\\\"os\\\\")._exit(0) or 1"\\n\' > '
        "/usr/local/bin/calc; chmod 755 /usr/local/bin/calc",
        FINISH,
    ),
    "date-format prints for ever": (
        39,
        "printf '#!/bin/sh\\nyes\\n' > /usr/local/bin/date-format; chmod 755 "
        "/usr/local/bin/date-format",
        FINISH,
    ),
    "npm is the system's find": (
        15,
        "for t in npm find; do printf '#!/bin/sh\\necho yes\\n' > /usr/local/bin/$t; "
        "chmod 755 /usr/local/bin/$t; done",
        answer("no"),
    ),
}
