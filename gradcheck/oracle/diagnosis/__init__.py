"""Diagnosis: why an implementation's gradient is not the derived one."""
