#!/usr/bin/env python3
"""Calls a gateway with an ordinary gRPC client: no code of this project, no generated files.

Health.Check goes over mutual TLS to the public port. Admin.Status goes over the gateway's Unix
socket, with message types that the gateway itself describes through server reflection.

    pip install grpcio grpcio-health-checking grpcio-reflection
    grpc_client.py --address 127.0.0.1:7443 --name gateway.grand-dijon.test \
        --ca ca.pem --certificate agent.pem --key agent.key --socket admin.sock

Prints one JSON object; exits 0 when both calls were answered.
"""

import argparse
import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

DEADLINE_S = 10


def read(path):
    with open(path, "rb") as file:
        return file.read()


def check_health(arguments):
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(arguments.ca),
        private_key=read(arguments.key),
        certificate_chain=read(arguments.certificate),
    )
    # The address is a number; the certificate is for the name in the party's sheet.
    options = [("grpc.ssl_target_name_override", arguments.name)]
    with grpc.secure_channel(arguments.address, credentials, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def admin_status(arguments):
    # Without this the client names the socket's path as the authority, which is none (RFC 9113).
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{arguments.socket}", options=options) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("passerelle.v1.Admin")
        method = service.FindMethodByName("Status")
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer = call(request(), timeout=DEADLINE_S)
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("address", "name", "ca", "certificate", "key", "socket"):
        parser.add_argument(f"--{option}", required=True)
    arguments = parser.parse_args()
    try:
        answer = {"health": check_health(arguments), "admin": admin_status(arguments)}
    except grpc.RpcError as error:
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
