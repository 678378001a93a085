# Nothing is generated or packed here.
