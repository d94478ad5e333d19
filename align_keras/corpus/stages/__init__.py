"""What the workers do in each stage: functions of JSON-ready tasks."""
