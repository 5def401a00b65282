"""AgentBench's OS interaction: its data, its protocol, its verdicts."""
