"""Why an implementation's gradient is not the derived one: see :mod:`gradcheck.oracle.diagnosis.diagnose`."""
