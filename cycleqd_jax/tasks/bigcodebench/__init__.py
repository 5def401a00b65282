"""BigCodeBench: functions that call libraries, judged by unit tests in the sandbox."""
