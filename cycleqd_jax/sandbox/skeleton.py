"""The system that an episode starts with where no image gives one.

Like a fresh container, but smaller: home folders are empty, there are the usual
users and groups and a minimal `/etc`. Programs come from the machine's `/usr`; see
`_holder`.
"""

FOLDERS = (
    "dev etc etc/default etc/pam.d etc/profile.d etc/skel home opt proc root run "
    "run/lock srv sys tmp usr var var/backups var/cache var/lib var/local var/log "
    "var/log/apt var/mail var/opt var/spool var/tmp"
).split()
LOCAL_FOLDERS = "bin etc games include lib sbin share src".split()
# Folder -> permissions; everybody may write into the temporary ones.
FIRST = {
    **dict.fromkeys(FOLDERS, 0o755),
    **{f"usr/local/{name}": 0o755 for name in LOCAL_FOLDERS},
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}
LINKS = {
    "etc/mtab": "../proc/self/mounts",
    "etc/os-release": "../usr/lib/os-release",
    "var/run": "/run",
    "var/lock": "/run/lock",
}
NAMES = "passwd: files\ngroup: files\nhosts: files\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Name, user id, group id, home; they may not log in.
_USERS = """
    daemon 1 1 /usr/sbin, bin 2 2 /bin, sys 3 3 /dev, sync 4 65534 /bin,
    games 5 60 /usr/games, man 6 12 /var/cache/man, lp 7 7 /var/spool/lpd,
    mail 8 8 /var/mail, news 9 9 /var/spool/news, uucp 10 10 /var/spool/uucp,
    proxy 13 13 /bin, www-data 33 33 /var/www, backup 34 34 /var/backups,
    list 38 38 /var/list, irc 39 39 /run/ircd, gnats 41 41 /var/lib/gnats,
    _apt 100 65534 /nonexistent, nobody 65534 65534 /nonexistent
"""
_MODES = {  # of files that not everybody may read or only root write
    "etc/shadow": 0o640,
    "etc/gshadow": 0o640,
    "var/log/btmp": 0o660,
    "var/log/lastlog": 0o664,
    "var/log/wtmp": 0o664,
}
_SHELLS = {"root": "/bin/bash", "sync": "/bin/sync"}
_GROUPS = (
    "root:0 daemon:1 bin:2 sys:3 adm:4 tty:5 disk:6 lp:7 mail:8 news:9 uucp:10 man:12 "
    "proxy:13 kmem:15 dialout:20 fax:21 voice:22 cdrom:24 floppy:25 tape:26 sudo:27 "
    "audio:29 dip:30 www-data:33 backup:34 operator:37 list:38 irc:39 src:40 gnats:41 "
    "shadow:42 utmp:43 video:44 sasl:45 plugdev:46 staff:50 games:60 users:100 "
    "nogroup:65534"
)
_BASHRC = r"""# ~/.bashrc: executed by bash(1) for non-login shells.
[ -z "$PS1" ] && return
HISTCONTROL=ignoredups:ignorespace
shopt -s histappend
HISTSIZE=1000
HISTFILESIZE=2000
shopt -s checkwinsize
PS1='${debian_chroot:+($debian_chroot)}\u@\h:\w\$ '
case "$TERM" in
xterm*|rxvt*)
    PS1="\[\e]0;${debian_chroot:+($debian_chroot)}\u@\h: \w\a\]$PS1"
    ;;
esac
alias ll='ls -alF'
alias la='ls -A'
alias l='ls -CF'
"""
_USER_PROFILE = """# ~/.profile: executed by the command interpreter for login shells.
if [ -n "$BASH_VERSION" ]; then
    if [ -f "$HOME/.bashrc" ]; then
        . "$HOME/.bashrc"
    fi
fi
"""
_PROFILE = """# /etc/profile: system-wide .profile file for the Bourne shell (sh(1))
if [ "${PS1-}" ] && [ "${BASH-}" ] && [ -f /etc/bash.bashrc ]; then
  . /etc/bash.bashrc
fi
for i in /etc/profile.d/*.sh; do
  if [ -r "$i" ]; then
    . "$i"
  fi
done
unset i
"""
_LOGIN_DEFS = """MAIL_DIR /var/mail
ENV_SUPATH PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV_PATH PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games
UMASK 022
HOME_MODE 0755
PASS_MAX_DAYS 99999
PASS_MIN_DAYS 0
PASS_WARN_AGE 7
UID_MIN 1000
UID_MAX 60000
SYS_UID_MIN 101
SYS_UID_MAX 999
GID_MIN 1000
GID_MAX 60000
SYS_GID_MIN 101
SYS_GID_MAX 999
SUB_UID_COUNT 0
SUB_GID_COUNT 0
USERGROUPS_ENAB yes
ENCRYPT_METHOD SHA512
"""
_ROOT_MAY = """auth sufficient pam_rootok.so
auth required pam_unix.so nullok
account required pam_permit.so
session required pam_permit.so
password required pam_unix.so nullok
"""
_PAM_SERVICES = (
    "chfn chpasswd chsh common-account common-auth common-password common-session "
    "groupmems login newusers other passwd runuser runuser-l su su-l sudo useradd"
).split()


def files() -> dict[str, tuple[str, int]]:
    """Path below the root -> (content, mode) of each file that is there at first."""
    users = [row.split() for row in f"root 0 0 /root,{_USERS}".split(",")]
    passwd = [
        f"{name}:x:{uid}:{gid}:{name}:{home}:{_SHELLS.get(name, '/usr/sbin/nologin')}"
        for name, uid, gid, home in users
    ]
    groups = [group.split(":") for group in _GROUPS.split()]
    made = {
        "etc/passwd": "\n".join(passwd) + "\n",
        "etc/group": "".join(f"{n}:x:{i}:\n" for n, i in groups),
        "etc/shadow": "".join(f"{u[0]}:*:19000:0:99999:7:::\n" for u in users),
        "etc/gshadow": "".join(f"{name}:*::\n" for name, _ in groups),
        "etc/subuid": "",
        "etc/subgid": "",
        "etc/hostname": "box\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tbox\n",
        "var/log/alternatives.log": "",
        "var/log/apt/history.log": "\nStart-Date: 2023-01-01\n",
        "var/log/btmp": "",
        "var/log/dpkg.log": "2023-01-01 00:00:00 startup archives unpack\n",
        "var/log/lastlog": "",
        "var/log/wtmp": "",
        # These decide how programs and logins behave.
        "etc/bash.bashrc": _BASHRC,
        "etc/default/useradd": "SHELL=/bin/sh\n",
        "etc/environment": f'PATH="{PATH}"\n',
        "etc/login.defs": _LOGIN_DEFS,
        "etc/nsswitch.conf": NAMES,
        "etc/profile": _PROFILE,
        "etc/profile.d/00-none.sh": "",
        "etc/shells": "/bin/sh\n/bin/bash\n/usr/bin/bash\n/bin/dash\n/usr/bin/dash\n",
        "etc/skel/.bash_logout": "",
        "etc/skel/.bashrc": _BASHRC,
        "etc/skel/.profile": _USER_PROFILE,
        **dict.fromkeys((f"etc/pam.d/{name}" for name in _PAM_SERVICES), _ROOT_MAY),
    }
    return {name: (text, _MODES.get(name, 0o644)) for name, text in made.items()}
